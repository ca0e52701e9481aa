"""Rows with their runs as figures: means over seeds, differences to what is published, as JSON and as markdown."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.metrics import LOWER_IS_BETTER
from recsys.results.protocols import Table
from recsys.results.records import Recorded, recipe_changed
from recsys.results.rows import Row


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric of a row: mean over its seeds, their sample standard deviation (None for one seed), and the mean ends
    of the runs' 95 % intervals (None where there are none)."""

    mean: float
    std: float | None
    interval: tuple[float, float] | None


def figures(row: Row, table: Table, runs: Sequence[Recorded]) -> dict[str, Figure]:
    """The row's metrics that its runs have; empty without runs."""
    found = {}
    for metric in table.metrics:
        values = [each.run.metrics.get(row.split, {}).get(metric) for each in runs]
        defined = [float(value) for value in values if value is not None]
        if not defined or len(defined) < len(values):
            continue
        ends = [each.intervals[metric] for each in runs if metric in each.intervals]
        found[metric] = Figure(
            mean=statistics.fmean(defined),
            std=statistics.stdev(defined) if len(defined) > 1 else None,
            interval=(statistics.fmean(low for low, _ in ends), statistics.fmean(high for _, high in ends))
            if len(ends) == len(runs)
            else None,
        )
    return found


def row_json(row: Row, table: Table, runs: Sequence[Recorded]) -> dict[str, Any]:
    """A row for programs. What is not known is null: ``ours`` without runs, ``published`` of our own splits."""
    own = figures(row, table, runs)
    first = runs[0].run if runs else None
    return {
        "row": row.name,
        "table": table.name,
        "model": row.model,
        "recipe": row.recipe or None,
        "command": _command(row, runs) or None,
        "ours": {name: {"mean": each.mean, "std": each.std, "interval": each.interval} for name, each in own.items()}
        or None,
        "published": dict(row.published) or None,
        "difference": {name: own[name].mean - value for name, value in row.published.items() if name in own} or None,
        "reached": all(_reached(name, own[name].mean, value) for name, value in row.published.items() if name in own)
        if own and row.published
        else None,
        "seeds": [each.run.seed for each in runs],
        "source": row.source or None,
        "departures": [*table.departures, *row.departures] if row.recipe else [],
        "recipe_changed": any(recipe_changed(each) for each in runs) if runs else None,
        "commits": sorted({_commit(each) for each in runs}),
        "machine": None if first is None else str(first.machine),
        "train_s": statistics.fmean(each.run.train_s for each in runs) if runs else None,
        "peak_memory_mib": max(each.run.peak_memory_mib for each in runs) if runs else None,
        "epochs": [each.run.epochs for each in runs],
    }


def markdown(table: Table, rows: Sequence[Row], runs: Mapping[str, Sequence[Recorded]]) -> str:
    """A table with what is needed to repeat it and to judge it."""
    published = [label for name, label in table.metrics.items() if any(name in row.published for row in rows)]
    headings = ["model", *table.metrics.values()]
    if published:
        headings += [f"published {' / '.join(published)}", "difference"]
    headings += ["seeds", "training", "command"]
    lines = [f"| {' | '.join(headings)} |", f"| {' | '.join('---' for _ in headings)} |"]
    for row in rows:
        lines.append(f"| {' | '.join(_cells(row, table, runs[row.name], bool(published)))} |")
    lines += ["", *_legend(table, rows, runs)]
    return "\n".join(lines)


def number(value: float) -> str:
    """Four places, without the zero before them: .9831."""
    return f"{value:.4f}".removeprefix("0") if value >= 0 else f"-{number(-value)}"


def _cells(row: Row, table: Table, runs: Sequence[Recorded], with_published: bool) -> list[str]:
    own = figures(row, table, runs)
    cells = [row.model]
    for metric in table.metrics:
        cells.append(_cell(own.get(metric), table, of_runs=bool(runs)) if row.recipe else "")
    if with_published:
        cells.append(" / ".join(number(row.published[name]) for name in table.metrics if name in row.published))
        cells.append(
            " / ".join(
                _difference(name, own[name].mean, row.published[name])
                for name in table.metrics
                if name in own and name in row.published
            )
        )
    train_s = _duration(statistics.fmean(each.run.train_s for each in runs)) if runs else ""
    command = _command(row, runs)
    if any(recipe_changed(each) for each in runs):
        command += "  # the recipe has changed since"
    return [*cells, _seeds([each.run.seed for each in runs]), train_s, f"`{command}`" if command else ""]


def _cell(figure: Figure | None, table: Table, *, of_runs: bool) -> str:
    if figure is None:
        return "none" if of_runs else "not run"
    text = number(figure.mean) + ("" if figure.std is None else f" +- {number(figure.std)}")
    if table.intervals and figure.interval is not None:
        text += f" ({number(figure.interval[0])} to {number(figure.interval[1])})"
    return text


def _difference(metric: str, own: float, published: float) -> str:
    difference = own - published
    text = f"{'+' if difference >= 0 else '-'}{number(abs(difference))}"
    return f"**{text}**" if _reached(metric, own, published) else text


def _reached(metric: str, own: float, published: float) -> bool:
    return own <= published if metric in LOWER_IS_BETTER else own >= published


def _legend(table: Table, rows: Sequence[Row], runs: Mapping[str, Sequence[Recorded]]) -> list[str]:
    lines = []
    if any(len(runs[row.name]) > 1 for row in rows):
        lines.append("Means over seeds +- their standard deviation.")
    if table.intervals and any(runs[row.name] for row in rows):
        lines.append("In brackets the 95 % interval when users are drawn anew.")
    if any(row.published for row in rows):
        lines.append("Differences in bold are for the better.")
    sources = sorted({row.source for row in rows if row.source})
    if sources:
        lines.append(f"Published: {'; '.join(sources)}.")
    for code, names in _provenance(rows, runs).items():
        lines.append(f"{code}: {', '.join(names)}.")
    text = [" ".join(lines), ""] if lines else []
    departures = [f"- {each}" for each in table.departures]
    departures += [f"- {row.model}: {each}" for row in rows for each in row.departures]
    if departures:
        text += ["Departures:", "", *departures]
    return text


def _provenance(rows: Sequence[Row], runs: Mapping[str, Sequence[Recorded]]) -> dict[str, list[str]]:
    """Commit and machine -> the rows that were run so."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for place in dict.fromkeys(f"{_commit(each)} on {each.run.machine}" for each in runs[row.name]):
            found.setdefault(f"Commit {place}", []).append(row.model)
    return found


def _commit(recorded: Recorded) -> str:
    run = recorded.run
    return f"{(run.commit or 'unknown')[:7]}{' with changes' if run.changed else ''}, {run.started_at[:10]}"


def _command(row: Row, runs: Sequence[Recorded]) -> str:
    if not row.recipe:
        return ""
    overrides = runs[0].run.overrides if runs else row.overrides
    return shlex.join(["recsys", "train", row.recipe, *overrides])


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
