"""The gate: reasons not to promote a day's model: what the guards of a promotion demand, and a little more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.bundle import Measured, read_manifest
from recsys.errors import ReleaseError
from recsys.pipeline.settings import PipelineSettings
from recsys.releases.guards import inspect, states_problem
from recsys.releases.push import record_of
from recsys.releases.release import RANKING, RETRIEVAL, ReleaseFolder, open_release
from recsys.releases.served import Served


def candidate_of(folder: Path) -> ReleaseFolder:
    """The release that bundles in a folder will be; raises BundleError."""
    bundles = {
        part: (folder / part, read_manifest(folder / part)) for part in (RANKING, RETRIEVAL) if (folder / part).is_dir()
    }
    return ReleaseFolder(path=folder, release=record_of(bundles, note=""))


def running_release(store: Path, served: Served | None, model: str) -> tuple[ReleaseFolder | None, str]:
    """The release that is served under a name, and the reason why it cannot be read."""
    if served is None or model not in served.models:
        return None, ""
    try:
        return open_release(store, served.models[model].live), ""
    except ReleaseError as error:
        return None, f"the served release cannot be read: {error}; nothing is compared with it"


def judge(
    settings: PipelineSettings,
    candidate: ReleaseFolder,
    running: ReleaseFolder | None,
    *,
    unread: str,
    measured: Mapping[str, tuple[Measured, Measured]],
    redis: bool,
) -> dict[str, Any]:
    """Ask the guards; facts: ``refusals``, ``notes``, ``rows`` of the comparison, ``states``: they must be computed.

    Args:
        settings: of the pipeline.
        candidate, running: the two releases; None: nothing is served yet.
        unread: reason why the served one cannot be read; empty: it can.
        measured: part of the release -> both on the held-out samples.
        redis: whether there is a store to compute states in.
    """
    found = inspect(candidate, running, settings.gate.bounds(), measured=measured)
    refusals = [*([unread] if unread else []), *found.damage, *found.refusals]
    problem = states_problem(candidate, running)
    if problem and not redis and not settings.states.cold:
        refusals.append(f"{problem}; give the Redis with REDIS_URL or REDIS_URL_FILE, or set states.cold = true")
    return {
        "running": "" if running is None else running.release.name,
        "refusals": refusals,
        "notes": list(found.notes),
        "rows": [asdict(row) for row in found.rows],
        "states": bool(problem) and not settings.states.cold,
    }


def rows_problem(settings: PipelineSettings, ratio: float | None) -> str:
    """Reason that lies in the number of new events beside the days before; empty: there is none."""
    most = settings.gate.most_rows_ratio
    if not most or ratio is None or ratio <= most:
        return ""
    return f"new events: {ratio:.1f} times the mean of the days before; allowed: {most:g} (gate.most_rows_ratio)"


def rows_note(look: Mapping[str, Any], ratio: float | None) -> list[str]:
    """Sentences on what is odd about the new events, and refuses nothing."""
    found = []
    if ratio is not None and (ratio >= _MANY or ratio <= 1 / _MANY):
        found.append(f"{look['new_events']:,} new events are {ratio:.2g} times the mean of the days before")
    if look["drift"] is not None and look["drift"] >= _DRIFTED:
        found.append(
            f"drift: the new events are of items of other popularity than those before (PSI {look['drift']:.2f})"
        )
    return found


_MANY = 5.0
_DRIFTED = 0.25
"""Population stability index from which a distribution is commonly called another one."""
