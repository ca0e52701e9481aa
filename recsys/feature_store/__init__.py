"""The online feature store: behaviour histories, entity features and model states of users, on Redis.

- ``base.py``: the ``FeatureStore`` Protocol and the values its calls return;
- ``redis/``: the implementation on Redis; ``redis/store.py`` is the class to use;
- ``embedded/``: a private Redis server, for laptops, demos and tests;
- ``blocking.py``: BlockingFeatureStore, the same calls for threads without an event loop;
- ``item_cache.py``: item features kept in the process;
- ``loop_thread.py``: an event loop in a thread, for what blocking callers leave to one.

To add a second store: a package beside ``redis/`` with a class that has the calls of ``base.FeatureStore``, and a test
module that imports ``tests/contracts/feature_store_contract/__init__.py`` with a ``store`` fixture of its own.
"""
