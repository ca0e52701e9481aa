"""`recsys release promote`: make a release live, if the guards have nothing against it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from recsys.cli.options import WORK_DIR, JsonOption, WorkOption, notes, print_lines, redis_url_given, show_warnings
from recsys.cli.releases.evidence import (
    compare_requests,
    load_data,
    measure_both,
    precompute,
    states_text,
    trained_on_other_data,
)
from recsys.cli.releases.shared import (
    STORE,
    ReleaseArgument,
    StoreOption,
    WaitOption,
    byte_progress,
    in_spite_of,
    open_running,
    print_table,
    served_values,
    servers_after,
)
from recsys.errors import ConfigError
from recsys.releases.changes import promoted
from recsys.releases.comparison import Bounds, MetricRow, parse_bounds
from recsys.releases.guards import Findings, inspect, states_problem
from recsys.releases.release import ReleaseFolder
from recsys.releases.served import Served, read_served
from recsys.releases.store import change_served, find_release
from recsys.serving.settings import Settings

if TYPE_CHECKING:
    from recsys.bundle import Measured
    from recsys.parity.report import ParityReport

REFUSED = 3
"""Exit code of a promotion that is refused."""

_DAY_S = 86_400


def promote(
    release: ReleaseArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="Name that requests ask for. Default: the release's own.")
    ] = None,
    store: StoreOption = STORE,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            metavar="[METRIC=]MARGIN",
            help="By how much a metric may be worse than the running release's, over all samples and in each segment: "
            "a share of its value (1%), or in the metric's unit (0.002). May be repeated. Default: 1%; "
            "calibration_error=0.01, coverage=10%.",
        ),
    ] = None,
    smallest_segment: Annotated[
        int, typer.Option(help="Samples; a segment with fewer decides nothing.", min=1)
    ] = Bounds.smallest_segment,
    standard_errors: Annotated[
        float,
        typer.Option(
            help="Standard errors of the difference by which a segment must be worse as well: noise is no refusal.",
            min=0,
        ),
    ] = Bounds.standard_errors,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure both ranking bundles on the test split of --data now, instead of comparing what their "
            "exports recorded: where those are of other data. Needs the training packages.",
        ),
    ] = False,
    samples: Annotated[
        int, typer.Option(help="Fewest test samples that --measure takes, of whole users; 0: all.", min=0)
    ] = 20_000,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="LOG",
            help="Request log of live servers (`recsys serve --log-requests`): refuse if what they saw differs from "
            "--data.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Data of --measure and --requests: a folder of `recsys prepare`, or a data set.",
        ),
    ] = None,
    work_dir: WorkOption = WORK_DIR,
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            envvar="REDIS_URL",
            callback=redis_url_given,
            help="The feature store's Redis: states of long histories are precomputed in it first, if the running "
            "release's are of no use to this one.",
        ),
    ] = None,
    users_per_s: Annotated[
        float, typer.Option(help="Most users with a long history per second that are precomputed; 0: no bound.", min=0)
    ] = 200.0,
    active_days: Annotated[
        float, typer.Option(help="Only users with an event in so many days are precomputed; 0: all.", min=0)
    ] = 7.0,
    ttl_s: Annotated[
        int,
        typer.Option("--ttl-s", help="Seconds for which a state is kept, as RECSYS_STATE_TTL_S of the server.", min=60),
    ] = Settings.state_ttl_s,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold", help="Promote without states: each user's is computed with the first request, at a cost."
        ),
    ] = False,
    anyway: Annotated[
        str | None,
        typer.Option(
            "--anyway", metavar="WHY", help="Promote in spite of refusals; served.json keeps the reason, and them."
        ),
    ] = None,
    why: Annotated[str, typer.Option("--why", help="Reason, for people: served.json keeps it.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, and change nothing.")] = False,
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Make a release live, unless the guards refuse it: then every reason is told, and the exit code is 3.

    Its parity certificate and files are looked at, its metrics beside those of the release that is live under the same
    name, and its FeatureSet. What cannot be compared is a reason to refuse, too.
    """
    bounds = parse_bounds(margin or [], smallest_segment=smallest_segment, standard_errors=standard_errors)
    if (measure or requests is not None) and data is None:
        raise ConfigError(f"{'--measure' if measure else '--requests'} needs --data SOURCE, what to compare with")
    if data is not None and not measure and requests is None:
        raise ConfigError("--data is for --measure and --requests; give one of them")
    if anyway is not None and not anyway.strip():
        raise ConfigError("--anyway needs a reason: somebody will ask for it")
    served = read_served(store)
    candidate = find_release(store, release)
    name = model or candidate.release.model
    live = "" if served is None or name not in served.models else served.models[name].live
    facts: dict[str, Any] = {"store": str(store), "release": candidate.release.name, "model": name}
    facts["running"] = live or None
    if served is not None and live == candidate.release.name:
        _say_live(facts, served, store, wait, as_json=as_json)
        return
    running, unread = open_running(store, served, name)
    dataset = None if data is None else load_data(data, work_dir)
    measured = None if not measure or dataset is None else measure_both(candidate, running, dataset, samples=samples)
    found = _look(candidate, running, bounds, measured)
    if measured and running is not None and dataset is not None and trained_on_other_data(running, dataset):
        warning = "the running release was trained on other data: test samples that it was trained on flatter it"
        found = dataclasses.replace(found, notes=(*found.notes, warning))
    report = None if requests is None or dataset is None else compare_requests(dataset, requests)
    refusals = [*unread, *found.refusals, *_different(report, requests, data)]
    problem = states_problem(candidate, running)
    if problem and not redis_url and not cold:
        refusals.append(f"{problem}; {_STATES}")
    facts |= _facts(found, refusals, report)
    refused = bool(found.damage) or (bool(refusals) and anyway is None)
    if not as_json:
        _show(candidate, running, name, found, first=not live)
        _show_refusals([*found.damage, *refusals], refused=refused, damaged=bool(found.damage))
    if refused or dry_run:
        if as_json:
            print(json.dumps({**facts, "promoted": False}))
        elif not refused:
            against = "it would be promoted in spite of that" if refusals else "nothing is against it"
            print_lines([f"{against}; nothing was changed (--dry-run)"])
        if refused:
            raise typer.Exit(REFUSED)
        return
    if problem and redis_url and not cold:
        active_within_s = round(active_days * _DAY_S)
        done = precompute(candidate, redis_url, ttl_s=ttl_s, users_per_s=users_per_s, active_within_s=active_within_s)
        facts["states"] = dataclasses.asdict(done)
        notes.print(f"states: {states_text(done)}", highlight=False, soft_wrap=True)
    reason = _reason(candidate.release.name, why, anyway, refusals)
    after = change_served(store, lambda now: promoted(now, name, candidate.release.name), expected=served, why=reason)
    if not as_json:
        before = f"; {live} is the previous" if live else ""
        print_lines([f"{candidate.release.name} is live as {name}{before}"])
    _, servers, failed = servers_after(store, after, wait, as_json=as_json)
    if as_json:
        print(json.dumps({**facts, "promoted": True, "served": served_values(after), **servers}))
    if failed is not None:
        raise failed


_STATES = (
    "precompute them first (`--redis-url URL`, with --users-per-s and --active-days), or promote without them "
    "(`--cold`)"
)


def _say_live(facts: Mapping[str, Any], served: Served, store: Path, wait_s: float, *, as_json: bool) -> None:
    """A release that is live already; nothing is looked at, nothing changes. Servers may not have followed yet."""
    if not as_json:
        print_lines([f"{facts['release']} is live as {facts['model']} already; nothing was changed"])
    _, servers, problem = servers_after(store, served, wait_s, as_json=as_json)
    if as_json:
        looked = {"refusals": [], "notes": ["is live already"], "metrics": []}
        print(json.dumps({**facts, **looked, "promoted": False, "served": served_values(served), **servers}))
    if problem is not None:
        raise problem


def _look(
    candidate: ReleaseFolder,
    running: ReleaseFolder | None,
    bounds: Bounds,
    measured: Mapping[str, tuple[Measured, Measured]] | None,
) -> Findings:
    """Ask the guards, with progress while files are hashed."""
    release = candidate.release
    total_bytes = sum(part.size_bytes for part in (release.ranking, release.retrieval) if part is not None)
    done_bytes = 0
    with byte_progress("hashing") as report:

        def count(size_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += size_bytes
            report(done_bytes, total_bytes)

        return inspect(candidate, running, bounds, measured=measured, count=count)


def _different(report: ParityReport | None, requests: Path | None, data: str | None) -> list[str]:
    """Reasons that lie in the requests of live servers."""
    if report is None or report.equal:
        return []
    if not report.samples:
        return [
            f"requests: nothing in {requests} could be compared with {data}: {report.skipped:,} requests were of users "
            "that it lacks, or degraded; give data that reach past the newest request"
        ]
    first = report.differences[0] if report.differences else ""
    return [
        f"requests: what servers saw differs from {data} in {report.different:,} of {report.samples:,} requests: "
        f"{first}; `recsys parity {data} --requests {requests}` shows more"
    ]


def _facts(found: Findings, refusals: list[str], report: ParityReport | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "refusals": [*found.damage, *refusals],
        "notes": list(found.notes),
        "metrics": [dataclasses.asdict(row) for row in found.rows],
    }
    if report is not None:
        from recsys.cli.parity import parity_facts

        facts["requests"] = parity_facts(report)
    return facts


def _show(candidate: ReleaseFolder, running: ReleaseFolder | None, model: str, found: Findings, *, first: bool) -> None:
    """Metrics beside each other, and what is to be known."""
    if first:
        print_lines([f"nothing is live as {model} yet: certificate and files were looked at, metrics are not compared"])
    elif running is not None and found.rows:
        table = Table("", "metric", "running", "new", "difference", "", box=None)
        print_lines([f"running: {running.release.name}; new: {candidate.release.name}"])
        shown = ""
        several = len({row.part for row in found.rows}) > 1
        for row in found.rows:
            where = row.segment or "all samples"
            where = f"{row.part}: {where}" if several else where
            table.add_row("" if where == shown else where, row.metric, *_figures(row), _VERDICTS[row.verdict])
            shown = where
        print_table(table)
    show_warnings(found.notes)


def _figures(row: MetricRow) -> tuple[str, str, str]:
    values = ["none" if value is None else f"{value:.4f}" for value in (row.running, row.candidate)]
    if row.running is None or row.candidate is None:
        return values[0], values[1], ""
    error = "" if row.standard_error is None else f" ± {row.standard_error:.4f}"
    return values[0], values[1], f"{row.candidate - row.running:+.4f}{error}"


_VERDICTS = {
    "better": "better",
    "within": "within the margin",
    "worse": "[red]worse[/red]",
    "noise": "worse, within noise",
    "small": "decides nothing",
    "missing": "[red]not compared[/red]",
}


def _show_refusals(reasons: list[str], *, refused: bool, damaged: bool) -> None:
    if not reasons:
        return
    how = "refused" if refused else "in spite of"
    for reason in reasons:
        notes.print(f"[red]{how}:[/red] {escape(reason)}", highlight=False, soft_wrap=True)
    if refused and damaged:
        notes.print("nothing was changed; a damaged release cannot be promoted with --anyway either")
    elif refused:
        notes.print("nothing was changed; --anyway WHY promotes in spite of it")


def _reason(release: str, why: str, anyway: str | None, refusals: list[str]) -> str:
    """Text that ``served.json`` keeps."""
    if anyway is None or not refusals:
        return why or anyway or f"promotion of {release}"
    text = f"{why}; {anyway}" if why else anyway
    return in_spite_of(text, refusals)
