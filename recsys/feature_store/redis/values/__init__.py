"""Bytes of values in Redis, as ``docs/specs/redis_format.md`` specifies them.

- ``history.py``: header and chunks of a user's history;
- ``state.py``: sums of a user's long history.
"""
