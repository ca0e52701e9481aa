"""A retrieval profile for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.profile.retrieval.measure import FilterRow, RetrievalProfile, Times


def as_json(profile: RetrievalProfile) -> dict[str, Any]:
    """All that was found; units are in the names."""
    return asdict(profile)


def print_retrieval(profile: RetrievalProfile, console: Console) -> None:
    """The table by filter, and what the index takes of memory."""
    where = "" if profile.core is None else f", on core {profile.core}"
    console.print(
        f"[bold]{profile.model}[/bold] {profile.model_version}: {profile.items:,} items of {profile.dim} columns, "
        f"lists of {profile.top_k:,}, {profile.searches:,} searches a row{where}; "
        f"{profile.users:,} {profile.users_are}",
        highlight=False,
    )
    table = Table(
        "items allowed", "passed", "index ms", "p99", "scoring all ms", "p99", "cold ms", "p99", "rows scored", "exact"
    )
    table.box, table.padding = None, (0, 1)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in profile.rows:
        table.add_row(
            row.name, f"{row.passed:,}", *_times(row.index), *_times(row.exhaustive), *_times(row.cold), *_rest(row)
        )
    console.print(table)
    for line in memory_lines(profile):
        console.print(line, highlight=False)


def memory_lines(profile: RetrievalProfile) -> Iterator[str]:
    """Bytes of the index, private and mapped; the vectors' effective dimension; what is missing, and why."""
    mapped = sum(profile.mapped_bytes.values())
    largest = ", ".join(
        f"{name.removeprefix('item_id.')} {size / profile.items:,.0f}" for name, size in profile.mapped_bytes.items()
    )
    yield f"mapped, shared by all processes: {mapped / profile.items:,.0f} bytes an item ({largest})"
    if profile.private_bytes is not None:
        yield (
            f"private to this process: {profile.private_bytes / 2**20:,.1f} MiB, "
            f"{profile.private_bytes / profile.items:,.1f} bytes an item"
        )
    yield (
        f"codes {profile.coarse}: a search of all reads {profile.scanned_bytes_per_item} bytes of each item; vectors "
        f"of effective dimension {profile.effective_dimension:.1f} of {profile.dim}"
    )
    if any(row.index is None for row in profile.rows):
        yield "recsys's operators do not run here: all searches score all items"
    elif any(row.cold is None for row in profile.rows):
        yield "cold: not measured; the system kept the vectors in memory (another process may serve them)"
    else:
        yield "cold: no vector in memory, the codes are; every other time: all in memory"


def _times(times: Times | None) -> tuple[str, str]:
    return ("-", "-") if times is None else (f"{times.median_ms:,.2f}", f"{times.p99_ms:,.2f}")


def _rest(row: FilterRow) -> tuple[str, str]:
    scored = "-" if row.rows_scored is None else f"{row.rows_scored[0]:,} (most {row.rows_scored[1]:,})"
    return scored, "-" if row.exact is None else f"{row.exact:.4f}"
