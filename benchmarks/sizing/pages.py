"""A plan as text, as Markdown and as JSON lines: sizes side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.common import line

from sizing import memory, serving, store, training
from sizing.amounts import Amount
from sizing.claims import claims, recorded_bytes, why_utilisation
from sizing.deployment import Deployment
from sizing.limits import breaking_points, limits
from sizing.needs import Need
from sizing.recorded import SOURCES, Recorded

PARTS = {
    "Tables, a host, releases": memory.needs,
    "Redis": store.needs,
    "Ranker, network, request log": serving.needs,
    "Log and training": training.needs,
}
_Rows = list[list[str]]


def plan(size: Deployment, recorded: Recorded) -> dict[str, list[Need]]:
    """All lines, by part."""
    return {title: needs(size, recorded) for title, needs in PARTS.items()}


def shown(value: float) -> str:
    """Three digits of a number.

    >>> [shown(n) for n in (0, 0.01234, 12.34, 1234.5, 12_345_678)]
    ['0', '0.0123', '12.3', '1,230', '12,300,000']
    """
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}" if digits <= 0 else f"{value:.3g}"


def with_range(amount: Amount) -> str:
    """An amount, and its range where it has one."""
    ends = [shown(n) for n in (amount.low, amount.high)]
    return shown(amount.value) + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else "")


def size_title(size: Deployment) -> str:
    """Heading of a column."""
    return f"{shown(size.users / 1e6)} M users"


def need_tables(sizes: Sequence[Deployment], recorded: Recorded) -> dict[str, _Rows]:
    """A table of each part, its heading first."""
    plans = [plan(size, recorded) for size in sizes]
    head = ["figure", *(size_title(size) for size in sizes), "unit", "sum"]
    return {
        title: [head]
        + [
            [same[0].figure, *(with_range(need.amount) for need in same), same[0].unit, same[0].how]
            for same in zip(*(each[title] for each in plans), strict=True)
        ]
        for title in PARTS
    }


def size_table(sizes: Sequence[Deployment]) -> _Rows:
    """The sizes that the columns are of."""
    names = ("users", "ids", "items", "rank_per_s", "candidates", "events_per_user", "event_bytes", "recent", "dim")
    return [["size", *map(size_title, sizes)]] + [
        [name, *(shown(float(size.sizes()[name])) for size in sizes)] for name in names
    ]


def limit_table(sizes: Sequence[Deployment], recorded: Recorded) -> _Rows:
    """Parts in the order in which they break at the largest size, and how much of each is wanted."""
    found = [{limit.name: limit for limit in limits(size, recorded)} for size in sizes]
    points = breaking_points(sizes[-1], recorded)
    rows = [["part", "gives", *(size_title(size) for size in sizes), "breaks at M users", "in its place"]]
    for name in found[-1]:
        of_sizes = [each[name] for each in found]
        wanted = [share_text(limit.wanted) for limit in of_sizes]
        rows.append([name, of_sizes[-1].gives, *wanted, users_text(points[name]), of_sizes[-1].replacement])
    return rows


def users_text(points: tuple[float, float, float]) -> str:
    """Millions of users at which a part breaks, and from when to when it may.

    >>> users_text((5e6, 2e6, math.inf)), users_text((math.inf,) * 3)
    ('5 (2 to ever)', 'never')
    """
    value, low, high = ("never" if math.isinf(n) else shown(n / 1e6) for n in points)
    return value if low == high else f"{value} ({low} to {high.replace('never', 'ever')})"


def share_text(wanted: Amount) -> str:
    """A share that is wanted: per cent while the part does, then how many times too much.

    >>> share_text(Amount(0.5)), share_text(Amount(12.0))
    ('50 %', '12 x')
    """
    return f"{shown(wanted.value)} x" if wanted.value > 1 else f"{shown(100 * wanted.value)} %"


def first_to_break(size: Deployment, recorded: Recorded) -> str:
    """A sentence for a size."""
    broken = [limit for limit in limits(size, recorded) if limit.wanted.value > 1]
    if not broken:
        return f"{size_title(size)}: nothing breaks."
    names = [f"{limit.name} ({shown(limit.wanted.value)} x)" for limit in broken]
    others = f"; then {', '.join(names[1:])}" if names[1:] else ""
    return f"{size_title(size)}: the first to break is {names[0]}{others}."


def bytes_table(recorded: Recorded) -> _Rows:
    """Recorded histories beside this plan's sum."""
    return [["in Redis", "recorded, kB", "sum, kB"]] + [
        [about, shown(found), with_range(amount)] for about, found, amount in recorded_bytes(recorded)
    ]


def claim_table(size: Deployment, recorded: Recorded) -> _Rows:
    """The design's numbers beside this plan's."""
    return [["about", "design", f"here, {size_title(size)}", "unit", "agrees", "why"]] + [
        [c.about, shown(c.design), shown(c.plan), c.unit, "yes" if c.agrees else "no", c.why]
        for c in claims(size, recorded)
    ]


def machines_sentence(recorded: Recorded) -> str:
    """Count of constants by the kind of machine that they were measured on."""
    on_gpu = sum(not machine.startswith("CPU") for machine in recorded.machines.values())
    return f"{len(recorded.machines) - on_gpu} constants were measured on a CPU, {on_gpu} on a GPU."


def constant_table(recorded: Recorded) -> _Rows:
    """Every constant, and where it was measured."""
    rows = [["figure", "detail", "value", "unit", "meaning", "measured on"]]
    for name, source in SOURCES.items():
        detail = "" if source.key == "value" else f"`{source.key}`"
        value = with_range(recorded[name])
        rows.append([f"`{source.figure}`", detail, value, source.unit, source.meaning, recorded.machines[name]])
    return rows


def text(sizes: Sequence[Deployment], recorded: Recorded) -> str:
    """For a terminal."""
    parts = [_aligned(size_table(sizes))]
    parts += [f"{title}\n{_aligned(rows)}" for title, rows in need_tables(sizes, recorded).items()]
    parts.append(f"What breaks first\n{_aligned(limit_table(sizes, recorded))}")
    parts += [first_to_break(size, recorded) for size in sizes]
    parts += [assumptions(sizes[0]), why_utilisation(sizes[0], recorded)]
    return "\n\n".join(parts)


def markdown(sizes: Sequence[Deployment], recorded: Recorded) -> str:
    """For a page: tables under headings of the third level."""
    parts = [_piped(size_table(sizes)), assumptions(sizes[0]), why_utilisation(sizes[0], recorded)]
    for title, rows in need_tables(sizes, recorded).items():
        rows = [rows[0], *([f"`{row[0]}`", *row[1:]] for row in rows[1:])]
        parts += [f"### {title}", _piped(rows)]
    parts += ["### What breaks first", _piped(limit_table(sizes, recorded))]
    parts.append("\n".join(f"- {first_to_break(size, recorded)}" for size in sizes))
    parts += ["### Beside recorded bytes", _piped(bytes_table(recorded))]
    parts += ["### Beside the first design", _piped(claim_table(sizes[-1], recorded))]
    parts += ["### Constants", machines_sentence(recorded), _piped(constant_table(recorded))]
    return "\n\n".join(parts) + "\n"


def assumptions(size: Deployment) -> str:
    """Numbers that nobody measured, of which a reader has better ones."""
    names = ("utilisation", "peak_over_mean", "headroom", "redis_gb", "redis_replicas", "host_cores", "host_memory_gb")
    names += ("host_gbit", "cached_items", "log_share", "events_per_user_day", "samples_per_event", "distinct_rows")
    given = ", ".join(f"{name} {size.sizes()[name]:g}" for name in names)
    gpus = f"{size.gpu_gb:g} GB, {size.gpu_tflops:g} TFLOP/s, rows at {size.gpu_gb_per_s:,g} GB/s, "
    gpus += f"{size.gpu_link_gb_per_s:g} GB/s to the others of a host and {size.gpu_network_gb_per_s:g} to other hosts"
    return f"Assumed, not measured: {given}. A GPU, as makers say: {gpus}."


def json_lines(size: Deployment, recorded: Recorded) -> list[dict[str, Any]]:
    """A line for each need and limit, as benchmarks print them; ``spread`` is its range."""
    made = []
    for needs in plan(size, recorded).values():
        for need in needs:
            figures = sorted({SOURCES[name].figure for name in need.sources})
            made.append(_line(need.figure, need.amount, need.unit, need.how, size, sources=figures))
    for limit in limits(size, recorded):
        name = "wanted." + "_".join("".join(c if c.isalnum() else " " for c in limit.name).split())
        made.append(_line(name, limit.wanted, "ratio", limit.gives, size, in_its_place=limit.replacement))
    return made


def _line(name: str, amount: Amount, unit: str, beside: str, size: Deployment, **details: Any) -> dict[str, Any]:
    """Not rounded: readers may calculate on."""
    on = {"sizes": size.sizes()}
    made = line(f"capacity.{name}", amount.value, unit, higher_is_better=False, compared_with=beside, on=on, **details)
    return made | {"value": amount.value, "spread": [amount.low, amount.high]}


def _aligned(rows: _Rows) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _piped(rows: _Rows) -> str:
    lines = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])
