"""What a server does before it listens: a private Redis, the bundle verified, the model run once, hot rows read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from recsys.bundle import Bundle, open_bundle
from recsys.feature_store.open_redis import redis_or_embedded
from recsys.features.hot_ids import HOT_IDS, read_hot_ids
from recsys.serving.session import Session, open_session
from recsys.serving.settings import Settings, bundle_folder
from recsys.serving.warm_pages import advise_random, in_memory, larger_than_memory, warm_pages

_log = logging.getLogger("recsys.serving")


@contextlib.contextmanager
def loaded(settings: Settings) -> Iterator[tuple[Session, str]]:
    """The model, and the URL of the Redis, which is a private one unless the settings name another.

    Raises:
        ConfigError: no bundle is set, or the private Redis has no place.
        BundleError: the bundle is missing, altered, or does not fit this program.
    """
    folder = bundle_folder(settings)
    # A private Redis is started first of all: gRPC's threads do not like a fork.
    with redis_or_embedded(settings.redis_url, settings.redis_dir) as redis_url:
        bundle = open_bundle(folder, verify=settings.verify)
        session = open_session(bundle, intra_op_threads=settings.intra_op_threads)
        _warm(settings, bundle, session)
        yield session, redis_url


def _warm(settings: Settings, bundle: Bundle, session: Session) -> None:
    """Hot rows into memory, before the first request waits for the disk."""
    if settings.table_reads == "random" or (settings.table_reads == "auto" and larger_than_memory(bundle)):
        told = advise_random(bundle)
        _log.info("tables are read at random: %.1f GB of mappings told", told / 1e9)
    file = settings.warm_ids or bundle.path / HOT_IDS
    if not settings.warm_up_s or (settings.warm_ids is None and (not file.exists() or in_memory(bundle))):
        return
    done = warm_pages(session, read_hot_ids(file), timeout_s=settings.warm_up_s)
    _log.info(
        "rows of %d users and %d items read ahead in %.1f s%s",
        done.users,
        done.items,
        done.seconds,
        "" if done.complete else " (RECSYS_WARM_UP_S is over; the rest stays cold)",
    )
