"""The feature store on Redis: what it stores and reads, over the links in :mod:`recsys.feature_store.redis.link`."""
