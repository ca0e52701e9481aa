"""Histories of users.

- ``records.py``: the fixed-width record of an event, packed, read and encoded;
- ``rules.py``: what a history holds, and what a model may see of it.

``rules.py`` has a twin in Lua (``feature_store/redis/lua/``): change both, the store's contract suite compares them.
"""
