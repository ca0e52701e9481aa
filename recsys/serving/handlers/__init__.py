"""Request handlers: plain code on the thread of its call, which knows no gRPC.

- ``ranker.py``: read the store, encode, run the model, pick the best;
- ``candidates.py``: the best of a request's candidates, and duplicates among them;
- ``recommender.py``: find candidates in an index, rank them; ``queries.py``: its requests and results;
- ``put_items.py``: items that were stored and no served model finds, counted;
- ``append.py``: events that a call or a stream brought; ``names.py``: texts of an answer's ids; both are coroutines,
  since streams wait on a loop;
- ``related/``: what is near to given items;
- ``explain/``: the parts of one score;
- ``given_values.py``: what a release passes over of a request, as only another one reads it;
- ``routes.py``: the release that answers a call; ``model_slot.py``: the releases there are, replaceable while calls
  run; ``store_slot.py``: the same for the store that calls write;
- ``shadow.py``: a share of the answered requests is scored by other releases, too, and compared;
- ``admission.py``: room and time for a request, or a refusal at once; ``request_log.py``: a share of requests,
  kept for parity and for samples; ``recorder.py``: a few of the latest, in memory, for releases to come.
"""
