"""The factory of links: the URL chooses the kind."""

from __future__ import annotations

from recsys.feature_store.redis.link.cluster import ClusterLink
from recsys.feature_store.redis.link.protocol import Link
from recsys.feature_store.redis.link.sentinel import SentinelLink
from recsys.feature_store.redis.link.server import RedisLink
from recsys.feature_store.redis.link.url import parse_redis_url

_KINDS: dict[str, type[RedisLink] | type[SentinelLink] | type[ClusterLink]] = {
    "server": RedisLink,
    "sentinel": SentinelLink,
    "cluster": ClusterLink,
}


def open_link(url: str, *, max_connections: int = 16) -> Link:
    """Open the link a URL stands for (``docs/operate/redis.md``), with so many connections at most to each server.

    Raises:
        ConfigError: the URL is malformed.
    """
    return _KINDS[parse_redis_url(url).kind](url, max_connections=max_connections)
