"""Links: the ways to a Redis.

- ``protocol.py``: the ``Link`` Protocol; ``connect.py``: the factory, which a URL chooses by;
- ``server.py``: one server; ``sentinel.py``: the primary that Sentinel names; ``cluster.py``: a Redis Cluster,
  whose commands ``slots.py`` takes apart by key;
- ``blocking.py``: any of them from threads without an event loop;
- ``wire.py``: one connection; ``breaker.py``: the circuit breaker; ``url.py``, ``schemes.py``: URLs;
  ``replies.py``: error replies.

To add a link: a class with the calls of ``Link``, its scheme in ``schemes.py`` and ``url.py``, a row in ``connect.py``,
and a test module that runs ``tests/contracts/feature_store_contract/__init__.py`` and ``link_contract.py`` over it.
"""
