"""Parts of the benchmark of reliability. None is run by itself.

- ``flood.py``: calls of others beside 10,000 calls that send nothing.
"""
