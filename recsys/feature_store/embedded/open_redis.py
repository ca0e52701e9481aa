"""The Redis of a command: the one it was given, or a private one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def redis_or_embedded(url: str | None, data_dir: Path) -> Iterator[str]:
    """Give the URL as it is; without one, run a private Redis in ``data_dir`` for the duration of the block.

    It is started again if it ends meanwhile.
    """
    if url:
        yield url
        return
    # Imported only then: a server with a Redis of its own needs none of it.
    from recsys.feature_store.embedded.server import EmbeddedRedis

    with EmbeddedRedis(data_dir, restart=True) as redis:
        yield redis.url
