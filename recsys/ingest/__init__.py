"""Events from files and streams into the feature store, each exactly once in effect (``docs/guides/ingest.md``).

- ``source.py``: the Protocol of a source; ``files.py`` chooses among ``lines.py`` (CSV, JSON lines) and ``parquet.py``;
  ``redis_stream.py`` and ``kafka.py`` read streams; ``kafka_options.py``: options of librdkafka, some of them secret;
- ``records.py``: raw columns to checked events; ``dead_letters.py``: those that were refused;
- ``run.py``: batch after batch into the store, each before its position;
- ``materialize.py``: whole tables: users, items, histories.

To add a source: a class of the Protocol in a file of its own, an option in ``cli/store.py``, its tests in
``tests/ingest/test_sources.py`` and ``test_exactly_once.py``. The smallest is ``parquet.py``.
"""
