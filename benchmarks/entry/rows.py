"""Agreement of the ways in: the odd rows of the contract suite through each of them, and what they make of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import common

from recsys.feature_store.embedded.server import EmbeddedRedis

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))  # the suite is the tests'

from contracts.row_contract import REFUSED, Case, documented_differences, same
from contracts.ways_in import (
    EVENTS,
    FORMATS,
    ITEMS,
    appended_verdicts,
    differs,
    ingested_verdicts,
    prepared_event_verdicts,
    prepared_item_verdicts,
    prepared_label_verdicts,
    put_verdicts,
    ranked_verdicts,
    streamed_verdicts,
)

Verdicts = list[tuple[Mapping[int, Any], Callable[[Case], str | None]]]
"""Of each way in: number of a case -> verdict; and the documented difference that a case falls under."""


def rows_agreeing(folder: Path) -> Iterator[common.Line]:
    """Odd rows on which all ways in that can carry them agree, over all odd rows."""
    events: Verdicts = [(appended_verdicts(), differs("")), (ranked_verdicts(), differs(""))]
    items: Verdicts = [(put_verdicts(), differs(""))]
    for kind in FORMATS:
        for name, runner, into in (
            ("prepare", prepared_event_verdicts, events),
            ("labels", prepared_label_verdicts, events),
            ("items", prepared_item_verdicts, items),
        ):
            (place := folder / f"{name}-{kind}").mkdir()
            into.append((runner(kind, place), differs(kind)))
    for kind in (*FORMATS, "entry", "event"):
        (place := folder / f"ingest-{kind}").mkdir()
        (folder / f"redis-{kind}").mkdir()
        with EmbeddedRedis(folder / f"redis-{kind}") as server:
            runner = streamed_verdicts if kind in ("entry", "event") else ingested_verdicts
            events.append((asyncio.run(runner(kind, place, server.url)), differs(kind)))
    agreeing = documented = 0
    for cases, ways in ((EVENTS, events), (ITEMS, items)):
        found = [_agree(number, cases, ways) for number in range(len(cases))]
        agreeing += sum(agree for agree, _ in found)
        documented += sum(differ for _, differ in found)
    rows = len(EVENTS) + len(ITEMS)
    yield common.line(
        "way_in.rows_agreeing",
        agreeing / rows,
        "ratio",
        higher_is_better=True,
        compared_with="all odd rows; a row on which a documented difference stands counts as agreeing",
        on=common.machine(("pyarrow", "duckdb"), odd_rows=rows),
        target=1.0,
        ways=len(events) + len(items),
        rows_that_differ_as_documented=documented,
        documented_differences=len(documented_differences()),
    )


def _agree(number: int, cases: Sequence[Case], ways: Verdicts) -> tuple[bool, bool]:
    """True if all ways agree on a case, but for documented differences; and if there is one."""
    verdicts = [found[number] for found, differ in ways if number in found and differ(cases[number]) is None]
    documented = any(number in found and differ(cases[number]) is not None for found, differ in ways)
    kept = [verdict for verdict in verdicts if verdict is not ...]
    first = kept[0] if kept else ...
    taken = {verdict is REFUSED for verdict in verdicts}
    return len(taken) <= 1 and all(same(verdict, first) for verdict in kept), documented
