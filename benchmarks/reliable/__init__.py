"""Parts of the benchmark of reliability. None is run by itself.

- ``flood.py``: calls of others beside 10,000 calls that send nothing.
- ``issuing.py``: certificates for servers and callers.
- ``certificates.py``: calls that fail while certificates change. ``security.py``: CPU that protection costs a call.
"""
