"""`recsys release compare`: two releases beside each other, on live calls and on logged requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from recsys.cli.options import JsonOption, notes, print_lines, show_warnings
from recsys.cli.releases.shared import STORE, StoreOption, print_table
from recsys.errors import ConfigError, ReleaseError
from recsys.releases.release import ReleaseFolder
from recsys.releases.status import read_statuses
from recsys.releases.store import find_release

if TYPE_CHECKING:
    from recsys.serving.process.releases.logged import Compared
    from recsys.serving.telemetry.release_figures import ReleaseFigures


def compare(
    a: Annotated[str, typer.Argument(help="Name of a release, or its beginning.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The release to compare with it.", metavar="B")],
    store: StoreOption = STORE,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            help="Put the requests of this log to both, too: a file or folder of `recsys serve --log-requests`.",
            metavar="LOG",
        ),
    ] = None,
    most: Annotated[int, typer.Option("--most", help="Logged requests to compare, the newest.", min=1)] = 1_000,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the comparison to this file as well.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two releases: calls, errors, latency and scores on the servers; differences where one is a shadow.

    With --requests both score the same logged requests in this process, in turns; nothing is read from a feature store.
    """
    first, second = find_release(store, a), find_release(store, b)
    names = (first.release.name, second.release.name)
    live, passed_over = _live(store, names)
    logged = None if requests is None else _logged((first, second), requests, most)
    if not live and logged is None:
        show_warnings(passed_over)
        raise ReleaseError(
            f"{store}: no server has figures of {names[0]} or {names[1]}: serve them (`recsys release split`, "
            "`shadow`), or compare them on a request log: --requests FOLDER"
        )
    facts: dict[str, Any] = {"store": str(store), "a": names[0], "b": names[1]}
    facts["live"] = {name: _facts(found, servers) for name, (found, servers) in live.items()}
    facts["requests"] = None if logged is None else _logged_facts(logged)
    facts["passed_over"] = passed_over
    if png is not None:
        from recsys.cli.releases.charts import comparison_charts
        from recsys.plots import write_png

        differences = np.concatenate(logged.differences) if logged is not None and logged.differences else np.zeros(0)
        write_png(comparison_charts(facts["live"], names, differences), png)
        notes.print(f"drawn: {png}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(facts))
        return
    _print_live(facts["live"], names)
    if facts["requests"] is not None:
        _print_logged(facts["requests"], names)
    show_warnings(passed_over)


def _live(store: Path, names: tuple[str, str]) -> tuple[dict[str, tuple[ReleaseFigures, int]], list[str]]:
    """Figures of each release over all servers that have some, with the number of these; servers passed over."""
    from recsys.serving.telemetry.release_figures import ReleaseFigures

    statuses, passed_over = read_statuses(store)
    found: dict[str, tuple[ReleaseFigures, int]] = {}
    for seen in statuses:
        if not seen.recent:
            passed_over.append(f"{seen.status.server}: its status is {seen.age_s:,.0f} s old; its figures are left out")
            continue
        for name in dict.fromkeys(names):
            if name in seen.status.releases:
                before, servers = found.get(name, (ReleaseFigures(), 0))
                found[name] = before + ReleaseFigures.from_dict(seen.status.releases[name]), servers + 1
    return found, passed_over


def _facts(found: ReleaseFigures, servers: int) -> dict[str, Any]:
    shadow = None
    if found.shadow_offered:
        shadow = {
            "offered": found.shadow_offered,
            "scored": found.shadow_scored,
            "dropped": found.shadow_dropped,
            "failed": found.shadow_failed,
            "mean_difference": found.mean_difference,
            "overlap": found.mean_overlap,
            "items_overlap": found.mean_items_overlap,
            "p50_ms": found.shadow_latency.quantile_us(0.5) / 1e3,
            "p99_ms": found.shadow_latency.quantile_us(0.99) / 1e3,
        }
    return {
        "servers": servers,
        "calls": found.calls,
        "error_share": found.error_share,
        "degraded_share": found.degraded_share,
        "p50_ms": found.latency.quantile_us(0.5) / 1e3 if found.answered else None,
        "p99_ms": found.latency.quantile_us(0.99) / 1e3 if found.answered else None,
        "mean_score": found.mean_score,
        "shadow": shadow,
    }


def _logged(releases: tuple[ReleaseFolder, ReleaseFolder], log: Path, most: int) -> Compared:
    from recsys.bundle import open_bundle
    from recsys.progress import progress
    from recsys.serving.inference.ranking_session import open_ranking_session
    from recsys.serving.process.releases.logged import compare_logged

    files = sorted(log.glob("*.parquet"), reverse=True) if log.is_dir() else [log]
    if not files:
        raise ConfigError(f"{log}: no *.parquet here; `recsys serve --log-requests 0.01` writes some")
    sessions = []
    for release in releases:
        if release.ranking is None:
            raise ReleaseError(f"{release.release.name} has no ranking model; logged requests are those of one")
        bundle = open_bundle(release.ranking, verify="sizes")
        sessions.append(open_ranking_session(bundle, release=release.release.name))
    with progress(notes, "comparing requests") as work:
        found = compare_logged(files, *sessions, most=most, progress=lambda done: work.count(done, most))
    if not found.requests:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.left_out.items()) or "it is empty"
        raise ConfigError(f"{log}: no request could be compared: {reasons}")
    return found


def _logged_facts(found: Compared) -> dict[str, Any]:
    signed = np.concatenate(found.differences) if found.differences else np.zeros(0)
    size = np.abs(signed)
    taken_ms = [1e3 * float(np.median(seconds)) for seconds in found.seconds]
    return {
        "requests": found.requests,
        "candidates": found.candidates,
        "left_out": found.left_out,
        "not_finite": {"a": found.not_finite[0], "b": found.not_finite[1]},
        "finite": found.not_finite == (0, 0),
        "mean_difference": float(size.mean()) if len(size) else None,
        "mean_signed_difference": float(signed.mean()) if len(size) else None,
        "p99_difference": float(np.quantile(size, 0.99)) if len(size) else None,
        "max_difference": float(size.max()) if len(size) else None,
        "overlap": float(np.mean(found.overlaps)) if found.overlaps else None,
        "rank_correlation": float(np.mean(found.correlations)) if found.correlations else None,
        "p50_ms": {"a": taken_ms[0], "b": taken_ms[1]},
        "latency_ratio": float(np.median(np.divide(found.seconds[1], found.seconds[0]))),
    }


def _print_live(live: dict[str, dict[str, Any]], names: tuple[str, str]) -> None:
    if not live:
        print_lines(["no server has figures of either"])
        return
    table = Table("on servers", *(name for name in names), box=None, pad_edge=False)
    rows = [(name, live.get(name)) for name in names]
    for title, key, form in (
        ("servers", "servers", ",.0f"), ("calls", "calls", ",.0f"), ("errors", "error_share", ".3%"),
        ("degraded", "degraded_share", ".3%"), ("p50, ms", "p50_ms", ",.2f"), ("p99, ms", "p99_ms", ",.2f"),
        ("mean score", "mean_score", ".5f"),
    ):  # fmt: skip
        table.add_row(title, *(_shown(None if found is None else found[key], form) for _, found in rows))
    print_table(table)
    for name, found in rows:
        if found is not None and (shadow := found["shadow"]) is not None:
            print_lines([_shadow_text(name, shadow)])


def _shadow_text(name: str, shadow: dict[str, Any]) -> str:
    return (
        f"{name} as a shadow: {shadow['scored']:,} of {shadow['offered']:,} requests scored, {shadow['dropped']:,} "
        f"dropped, {shadow['failed']:,} failed; mean difference of a score {_shown(shadow['mean_difference'], '.5f')}, "
        f"best candidates in common {_shown(shadow['overlap'], '.1%')}, retrieved items in common "
        f"{_shown(shadow['items_overlap'], '.1%')}, p99 {shadow['p99_ms']:,.2f} ms"
    )


def _print_logged(found: dict[str, Any], names: tuple[str, str]) -> None:
    table = Table(
        f"on {found['requests']:,} logged requests", f"{names[1]} beside {names[0]}", box=None, pad_edge=False
    )
    for title, key, form in (
        ("mean difference of a score", "mean_difference", ".5f"), ("  with its sign", "mean_signed_difference", "+.5f"),
        ("  99th percentile", "p99_difference", ".5f"), ("  largest", "max_difference", ".5f"),
        ("best candidates in common", "overlap", ".1%"), ("rank correlation", "rank_correlation", ".4f"),
        ("time of a request", "latency_ratio", ".2f"),
    ):  # fmt: skip
        table.add_row(title, _shown(found[key], form) + (" x" if key == "latency_ratio" else ""))
    print_table(table)
    print_lines(f"left out: {count:,} requests: {reason}" for reason, count in found["left_out"].items())
    for side, name in zip("ab", names, strict=True):
        if count := found["not_finite"][side]:
            print_lines([f"{name} gave no finite score in {count:,} requests; they are not in the differences"])


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
