"""Start-up: what precedes listening. A private Redis, the bundle verified, the model run once, hot rows read."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator

from recsys.bundle import Bundle
from recsys.errors import BundleError
from recsys.feature_store.embedded.open_redis import redis_or_embedded
from recsys.features.hot_ids import HOT_IDS, read_hot_ids
from recsys.operators import has_vnni, library
from recsys.serving.inference.memory import larger_than_memory, tables_bytes, two_fit
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.inference.read_ahead import advise_random, in_memory, read_pages_ahead
from recsys.serving.process.models import Models, open_models
from recsys.serving.process.releases.plan import Plan, PlannedRelease, Verified, bundle_plan
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")


@contextlib.contextmanager
def load_models(
    settings: Settings, plan: Plan | None = None, *, verified: Verified | None = None
) -> Iterator[tuple[Plan, dict[str, Models], str]]:
    """Load a plan's models, and start a private Redis unless the settings name one.

    Args:
        settings: the server's.
        plan: what to load; None: the bundles that the settings name.
        verified: of these bundles, as the supervisor found them; what was changed since is hashed.

    Yields:
        The plan, its models by release, and the Redis's URL. Who takes the models empties the mapping: what a start-up
        holds is never given back.

    Raises:
        ConfigError: no bundle is set, or the private Redis has no place.
        BundleError: a bundle is missing, altered, of the wrong kind, or does not fit this program.
    """
    # Its error comes before a Redis is started.
    plan = bundle_plan(settings, verified) if plan is None else plan
    # A private Redis is started first of all: gRPC's threads do not like a fork.
    with redis_or_embedded(settings.redis_url, settings.redis_dir) as redis_url:
        models = _opened_all(plan, settings)
        releases = {name: release for name, release in plan.releases.items() if name in models}
        yield dataclasses.replace(plan, releases=releases), models, redis_url


def _opened_all(plan: Plan, settings: Settings) -> dict[str, Models]:
    """Open all releases, but for those that are only kept for a rollback and are of no use any more."""
    used, models = plan.used(), {}
    for name, release in plan.releases.items():
        try:
            models[name] = _opened(release, settings)
        except BundleError as error:
            if name in used:
                raise
            _log.warning("release %r, which is kept for a rollback, is not loaded: %s", name, error)
    return models


def _opened(release: PlannedRelease, settings: Settings) -> Models:
    models = open_models(release, settings)
    prepare_models(models, settings)
    return models


def prepare_models(models: Models, settings: Settings, *, beside_others: bool = False) -> None:
    """Read hot rows ahead, and say what makes the models slow here.

    Args:
        models: that are loaded.
        settings: the server's.
        beside_others: another release answers meanwhile: its pages are not to be pushed out.
    """
    if models.ranking is not None:
        _warn_of_slow_int8(settings, models.ranking)
        _advise(settings, models.ranking.bundle)
        if not beside_others or two_fit(tables_bytes(models.ranking.bundle)):
            _read_ahead(settings, models.ranking)


def _warn_of_slow_int8(settings: Settings, session: RankingSession) -> None:
    if session.bundle.manifest.compute is None or settings.operators == "standard" or has_vnni():
        return
    why = (
        "were not compiled when it was installed, or do not load"
        if library() is None
        else ("need AVX-512 with VNNI, which this processor does not have")
    )
    _log.warning("int8 products take up to twice their time, in ONNX Runtime's operators: recsys's own %s", why)


def _advise(settings: Settings, bundle: Bundle) -> None:
    """Tell the system how the tables are read."""
    # Beside another release, neighbours that come along would take the room of pages that answer calls
    short = larger_than_memory(bundle) or (settings.releases is not None and not two_fit(tables_bytes(bundle)))
    if settings.table_reads == "random" or (settings.table_reads == "auto" and short):
        advised_bytes = advise_random(bundle)
        _log.info("tables are read at random: %.1f GB of mappings advised", advised_bytes / 1e9)


def _read_ahead(settings: Settings, session: RankingSession) -> None:
    """Read hot rows into memory, before the first request waits for the disk."""
    bundle = session.bundle
    file = settings.read_ahead_ids or bundle.path / HOT_IDS
    if not settings.read_ahead_s or (settings.read_ahead_ids is None and (not file.exists() or in_memory(bundle))):
        return
    done = read_pages_ahead(session, read_hot_ids(file), timeout_s=settings.read_ahead_s)
    _log.info(
        "rows of %d users and %d items read ahead in %.1f s%s",
        done.users,
        done.items,
        done.seconds,
        "" if done.complete else " (RECSYS_READ_AHEAD_S is over; the rest is read from disk when asked for)",
    )
