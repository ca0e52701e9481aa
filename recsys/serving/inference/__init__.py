"""Models in ONNX Runtime, and the lock that lets one run at a time.

- ``graphs.py``: a bundle's graphs, loaded and compared with their signatures;
- ``ranking_session.py``: user, rank and encode graphs, run for one request;
- ``candidate_index.py``: the Protocol of what finds a user's items; ``retrieval_session.py``: the exact one, a graph;
  ``allowed_rows.py``: which rows it may find; ``shard_rows.py``: those of a part of the items;
- ``related/``: items near to given ones;
- ``signature.py``: inputs and outputs that a retrieval bundle's graphs may have;
- ``table_guard.py``: tables that change under a loaded model; ``mapped_pages.py``: pages of theirs that are gone;
- ``fair_lock.py``: who may run a model next, first come, first served; ``pace.py``: how long that takes lately;
- ``read_ahead.py``: pages of hot rows, read before the first request; ``memory.py``: the room that tables have.

To add an index: a class of the Protocol in a file of its own, opened in ``process/models.py``; the tests of
``tests/serving/handlers/test_recommender.py`` show one of ten lines.
"""
