"""Items that came after training: kept up with the feature store, beside the items of a retrieval bundle.

- ``release_items.py``: ReleaseItems, the added items of one loaded release: which, their rows, those that have none;
- ``follower.py``: ItemFollower, the thread that keeps those of all loaded releases current.
"""
