"""A profile for a terminal, as JSON, and as charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.plots import Bars, bar_text
from recsys.profile.measure import Profile
from recsys.profile.operators import Operator, Shape

_BAR = 24
_WIDE = 100
_SHOWN = 14
"""Operators; the others are one line."""

_UNDISTURBED = 0.7
"""Waiting for Redis alone takes less than the rest of this."""

_COLOUR = "#0072B2"


def as_json(profile: Profile) -> dict[str, Any]:
    """All that was found; units are in the names, stages and operators in microseconds."""
    operators = [{**asdict(operator), "gflops": operator.gflops} for operator in profile.operators]
    derived = {name: getattr(profile, name) for name in ("bound_us", "model_us", "candidates_per_s")}
    return {**asdict(profile), **derived, "operators": operators}


def print_profile(profile: Profile, console: Console) -> None:
    """Stages, operators, and how near all that is to its arithmetic."""
    where = "" if profile.core is None else f", on core {profile.core}"
    console.print(
        f"[bold]{profile.model}[/bold] {profile.model_version}: {profile.candidates:,} candidates, "
        f"{profile.history_events:,.0f} events of history, {profile.requests:,} requests{where}",
        highlight=False,
    )
    if profile.degraded:
        console.print(f"{profile.degraded:,} answers lacked a part of the store: the picture is of these too")
    if profile.cpu_share < _UNDISTURBED:
        console.print(
            f"it computed {profile.cpu_share:.0%} of the time: the core was shared, or Redis slow; times are long"
        )
    console.print(_stages(profile, ascii_only=console.options.ascii_only))
    console.print(_operators(profile, width=console.width, ascii_only=console.options.ascii_only))
    for line in bound_lines(profile):
        console.print(line, highlight=False)


def _stages(profile: Profile, *, ascii_only: bool) -> Table:
    table = Table("stage", "", "us", "share", box=None, padding=(0, 1))
    for column in (2, 3):
        table.columns[column].justify = "right"
    total_us = profile.stages_us["total"]
    for stage, us in profile.stages_us.items():
        if stage == "total":
            table.add_section()
        elif not us:
            continue
        bar = Text(bar_text(us / total_us, _BAR, ascii_only=ascii_only) if stage != "total" else "", _COLOUR)
        table.add_row(stage, bar, f"{us:,.0f}", f"{us / total_us:.0%}")
    table.add_row("p99 of total", "", f"{profile.total_p99_us:,.0f}", "")
    return table


def _operators(profile: Profile, *, width: int, ascii_only: bool) -> Table:
    table = Table("graph", "operator", "", "us", "shapes", "MFLOP", "GFLOP/s", box=None, padding=(0, 1))
    for column in (3, 5, 6):
        table.columns[column].justify = "right"
    # Where there is little room, the shapes are cut and not the numbers.
    bar_width = _BAR // 4 if width < _WIDE else _BAR // 2
    others_width = 5 + 11 + bar_width + 6 + 5 + 7 + 2 * len(table.columns)
    table.columns[4].no_wrap, table.columns[4].overflow = True, "ellipsis"
    table.columns[4].max_width = max(16, width - others_width)
    shown, others = profile.operators[:_SHOWN], profile.operators[_SHOWN:]
    most_us = max((operator.us for operator in shown), default=1.0) or 1.0
    for operator in shown:
        bar = Text(bar_text(operator.us / most_us, bar_width, ascii_only=ascii_only), _COLOUR)
        flop = (f"{operator.flop / 1e6:,.2f}", f"{operator.gflops:,.0f}") if operator.flop else ("", "")
        table.add_row(operator.graph, operator.kind, bar, f"{operator.us:,.0f}", shapes_text(operator), *flop)
    if others:
        table.add_row("", f"{len(others)} others", "", f"{sum(operator.us for operator in others):,.0f}", "", "", "")
    return table


def shapes_text(operator: Operator) -> str:
    """The inputs' shapes and the output's, scalars left out: ``200x64 64x4000 -> 200x4000``."""
    return f"{' '.join(_shape(shape) for shape in operator.inputs if shape)} -> {_shape(operator.output) or 'one'}"


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def bound_lines(profile: Profile) -> Iterator[str]:
    """The request's time beside that of its matrix products at the machine's speed."""
    parts = [f"{profile.flop / 1e6:,.1f} MFLOP at {profile.matmul_gflops:,.0f} GFLOP/s"]
    if profile.integer_op:
        parts.append(f"{profile.integer_op / 1e6:,.1f} M of int8 at {profile.integer_matmul_gops:,.0f} G/s")
    speeds = "as fast as a large product here"
    yield f"matrix products, {speeds}: {', '.join(parts)} = [bold]{profile.bound_us:,.0f} us[/bold]"
    for name, us in (("graphs", profile.model_us), ("request", profile.stages_us["total"])):
        yield f"{name}: {us:,.0f} us, {profile.bound_us / us if us else 0.0:.0%} of it at that bound"
    yield f"{profile.candidates_per_s:,.0f} candidates/s on one core, one request after another, without gRPC"


def charts(profile: Profile) -> Sequence[Bars]:
    """The same as two charts."""
    stages = {stage: us for stage, us in profile.stages_us.items() if us}
    shown = profile.operators[:_SHOWN]
    return (
        Bars(f"{profile.model}: one request", list(stages), [round(us) for us in stages.values()], "us"),
        Bars(
            "its slowest operators",
            [f"{operator.graph} {operator.kind} {_shape(operator.output)}" for operator in shown],
            [round(operator.us) for operator in shown],
            "us",
        ),
    )
