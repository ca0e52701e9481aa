"""Items that came after training: kept up with the feature store, beside the items of a retrieval bundle.

- ``item_buffer.py``: ItemBuffer, rows that grow at their end, and snapshots that never change;
- ``release_items.py``: ReleaseItems, the added items of one loaded release: which, their rows, those that have none;
- ``follower.py``: ItemFollower, the thread that keeps those of all loaded releases current.
"""
