"""The gate: reasons not to promote a day's model: what the guards of a promotion demand, and a little more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.bundle import Measured, read_manifest
from recsys.data.samples.dataset import Dataset
from recsys.errors import ReleaseError
from recsys.parity.requests import request_parity
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


def compare_logged(dataset: Dataset, files: Sequence[Path], *, since_ms: int, until_ms: int) -> dict[str, Any]:
    """Compare the requests that live servers logged between two moments with what the day's log says they should see.

    Args:
        dataset: of the day, with keys.
        files: Parquet files of the request log.
        since_ms, until_ms: the two moments.

    Raises:
        DataFileError: a file is no request log, or of another FeatureSet's features.
    """
    found = request_parity(dataset.table, files, since_ms=since_ms, until_ms=until_ms)
    return {
        "compared": found.samples,
        "skipped": found.skipped,
        "different": found.different,
        "first": str(found.differences[0]) if found.differences else "",
    }


def requests_note(found: Mapping[str, Any]) -> str:
    """Sentence on requests of which none differs; empty: one does, or none could be compared."""
    if found["different"] or not found["compared"]:
        return ""
    left = f"; {found['skipped']:,} were of users that the log lacks, or degraded" if found["skipped"] else ""
    return f"requests: servers saw in all {found['compared']:,} of them what the log says{left}"


def requests_problem(found: Mapping[str, Any]) -> str:
    """Reason that lies in logged requests; empty: there is none."""
    if not found["compared"]:
        return (
            f"requests: none of the new ones could be compared: {found['skipped']:,} were of users that the log lacks, "
            "or degraded; is the log of the servers that answer in gate.requests?"
        )
    if not found["different"]:
        return ""
    return (
        f"requests: what servers saw differs from the log in {found['different']:,} of {found['compared']:,}: "
        f"{found['first']} (gate.requests; `recsys parity` shows more)"
    )


def noise_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on refusals of the comparison that chance alone may be the reason of: the held-out samples are few."""
    doubtful = [
        f"{row['metric']}{' of ' + row['segment'] if row['segment'] else ''}"
        for row in rows
        if row["verdict"] == "worse" and row["standard_error"] and row["worse_by"] < 2 * row["standard_error"]
    ]
    if not doubtful:
        return []
    return [
        f"{', '.join(doubtful)}: worse by less than two standard errors of the difference, so it may be chance: hold "
        "out more (data.holdout), or allow more (gate.margins)"
    ]


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


def not_found_notes(trained: Mapping[str, Any]) -> list[str]:
    """Sentence on items that are in no list because the index is kept; none: there is no such item."""
    if not trained["not_found"]:
        return []
    return [
        f"retrieval: {trained['not_found']:,} items with a positive are in no list, for the index that is kept has "
        f"them not; of the new positives {trained['new_items']:.1%} are of these"
    ]


_MANY = 5.0
_DRIFTED = 0.25
"""Population stability index from which a distribution is commonly called another one."""
