"""The feature store on Redis. ``docs/specs/redis_format.md`` specifies every byte and key.

- ``store.py``: RedisFeatureStore, all calls of the Protocol;
- ``histories.py``, ``entities.py``, ``states.py``, ``names.py``: the reads and writes of each kind of data;
- ``trending.py``: time-decayed counts of events by item;
- ``item_changes.py``: which items were written; ``scan.py``: the names of all keys of a kind;
- ``rank_reader.py``: all of them for a Rank request, in one round trip;
- ``values/``: the bytes of a value;
- ``keys.py``: names of keys; ``layouts.py``: the layout a store was filled with; ``eviction.py``: Redis as a cache;
- ``damage.py``: keys whose bytes are not ours, each logged once;
- ``scripts.py``, ``lua/``: the programs that change a history inside Redis;
- ``link/``: the ways to a Redis.

To add a kind of data: its bytes in the specification with a golden test, its key in ``keys.py``, a class like
``RedisStates`` over a ``Link``, its calls in the Protocol and in ``store.py``.
"""
