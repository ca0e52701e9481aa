"""States precomputed, the release pushed, and promoted once.

A push is of content: the same bundles are the same release, however often they are pushed. A promotion is written to
the day's file before it is made (``intent``) and after. Between the two, ``served.json`` tells what happened: its
revision is still the one that was decided on, so nothing did; or this release is live, so it did. If neither, somebody
changed it since, perhaps to take this release back, and it is not promoted again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.bundle import open_bundle
from recsys.errors import RecsysError
from recsys.pipeline.days import duration_ms
from recsys.pipeline.settings import StateSettings
from recsys.pipeline.state import DayState
from recsys.pipeline.steps import Refused
from recsys.releases.changes import promoted
from recsys.releases.push import push
from recsys.releases.release import RANKING, RETRIEVAL
from recsys.releases.served import Served, read_served
from recsys.releases.store import change_served
from recsys.serving.long_history.precompute import PrecomputeLimits, precompute_states


def precompute(bundle: Path, url: str, settings: StateSettings) -> dict[str, Any]:
    """Compute the states of recent users; facts on them.

    Raises:
        StoreError: the store cannot be reached, refuses, is full, or holds another layout.
    """
    within = settings.active_within
    limits = PrecomputeLimits(
        max_users_per_s=settings.users_per_s,
        active_within_s=duration_ms("states.active_within", within) // 1000 if within else 0,
        low_priority=True,
    )
    return asdict(precompute_states(open_bundle(bundle, verify="sizes"), url, ttl_s=settings.ttl_s, limits=limits))


def push_bundles(folder: Path, store: Path, *, note: str) -> dict[str, Any]:
    """Push the bundles in a folder; facts on the release.

    Raises:
        BundleError, ConfigError, NoSpaceError, ReleaseError: as :func:`recsys.releases.store.push_release`.
    """
    retrieval = folder / RETRIEVAL
    pushed = push(store, ranking=folder / RANKING, retrieval=retrieval if retrieval.is_dir() else None, note=note)
    return {
        "release": pushed.release.name,
        "number": pushed.release.number,
        "stored_bytes": pushed.stored_bytes,
        "shared_bytes": pushed.shared_bytes,
    }


def settled(state: DayState, served: Served | None, *, model: str, release: str) -> bool:
    """True if a release of this day needs no promotion: it is live, or was, and somebody took it back.

    Args:
        state: of the day; ``release`` is set in it if this was found out.
        served: what is served.
        model: name that requests ask for.
        release: of this day's bundles.

    Raises:
        Refused: it cannot be told if it was promoted, because ``served.json`` was changed since.
    """
    live = "" if served is None or model not in served.models else served.models[model].live
    if live == release:
        state.release = release
        return True
    if live and state.release == release:  # without any, the store is a new one
        return True
    if state.intent.get("release") != release:
        return False
    revision = 0 if served is None else served.revision
    if revision == state.intent["revision"]:
        return False
    changed = "" if served is None else f" by {served.by} at {served.at} ({served.why})"
    raise Refused(
        [
            f"{release} was about to be promoted at revision {state.intent['revision']} of served.json, which is at "
            f"{revision} now, changed{changed}: it may have been promoted and taken back, so it is not promoted again; "
            f"`recsys release promote {release}` does it, and the next day goes on by itself"
        ]
    )


def promote(
    state: DayState, served: Served | None, store: Path, *, model: str, release: str, why: str, save: Callable[[], None]
) -> None:
    """Make a release live, if what is served is still what the gate looked at.

    Args:
        state: of the day.
        served: what the gate looked at.
        store: of releases.
        model: name that requests ask for.
        release: its name.
        why: kept in ``served.json``.
        save: writes the day's file.

    Raises:
        ReleaseError: ``served.json`` was changed meanwhile, or another process holds the store's lock.
        ConfigError, NoSpaceError: the store cannot be written.
    """
    state.intent = {"release": release, "revision": 0 if served is None else served.revision}
    save()
    try:
        change_served(store, lambda now: promoted(now, model, release), expected=served, why=why)
    except (RecsysError, OSError):
        if read_served(store) != served:  # perhaps ours, perhaps another's: the next run looks
            raise
        state.intent = {}
        raise
    state.release, state.intent = release, {}
