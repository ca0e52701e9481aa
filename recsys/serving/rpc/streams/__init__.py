"""Streams: calls that last as long as their callers like, and the share of them that a caller may keep.

- ``fair_share.py``: whose call gives way when all places are taken.
- ``open_streams.py``: streams of messages that callers send, each read by a thread.
"""
