"""Events from files and streams into the feature store, each exactly once in effect (``docs/ingest.md``)."""
