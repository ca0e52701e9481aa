"""The one definition of a feature: what it is, how it is keyed, packed and encoded. numpy only.

- ``feature_set.py``: the FeatureSet, declared; ``changes.py``: what going from one to another takes;
  ``extension.py``: those that one store can hold at a time;
- ``hashing.py``: ids to 62-bit keys; ``names.py``: keys back to texts; ``hot_ids.py``: the ids met most often;
- ``columns.py``: raw values to columns; ``entities.py``: columns to packed rows; ``encode.py``: a request's inputs;
- ``number_transform.py``: how models read numeric features, fitted to training samples;
- ``trending.py``: time-decayed counts of events by item;
- ``history/``: packed events, and the rules of a history.
"""
