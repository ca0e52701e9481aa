"""Parts of the benchmark of reliability. None is run by itself.

- ``overload.py``: five times the load. ``faults.py``: parts that are killed. ``soak.py``: everything on, for long.
- ``load.py``: calls at changing rates, and calls by the Python client; ``stage.py``: servers that the parts need.
- ``flood.py``: calls of others beside 10,000 calls that send nothing; ``explaining.py``: beside calls of Explain.
- ``issuing.py``: certificates for servers and callers.
- ``certificates.py``: calls that fail while certificates change. ``security.py``: CPU that mTLS costs a call;
  ``tokens.py``: that tokens cost; ``tracing.py``: that metrics and traces cost.
"""
