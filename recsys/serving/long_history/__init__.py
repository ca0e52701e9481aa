"""Long histories: the sums of a user's events, kept in the store and up to date (docs/understand/long_histories.md).

- ``states.py``: a user's state for a request, and its way back into the store;
- ``window.py``: the sums where a state does not fit: from some events, or all, while there is time;
- ``inputs.py``: sums and newest events as the ``user`` graph reads them;
- ``coalescing_queue.py``: work in the background of which the latest counts;
- ``precompute.py``: states of many users, before a release;
- ``users.py``: users with a long history, those active last first; how many of them lack a state;
- ``pace.py``: a bounded rate.
"""
