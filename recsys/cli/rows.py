"""`recsys rows`: look at the rows of a run's tables, and let them grow by a new log."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, notes, output, where_data_is
from recsys.errors import ConfigError, nearest

if TYPE_CHECKING:
    from recsys.plots import Bars, Chart
    from recsys.training.tables.growth.grow import TableGrowth
    from recsys.training.tables.report import RunReport

app = typer.Typer(no_args_is_help=True, help="Look at the rows of a run's tables, and let them grow by a new log.")

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]
_HOTTEST_SHOWN = 5
_CURVES = 6


@app.command()
def report(
    run_dir: RunArgument,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the picture to this file as well.")] = None,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Report on a run's tables: rows in use, ids that share rows, the hottest ids, and lengths of rows."""
    from recsys.data.datasets import load_dataset
    from recsys.progress import progress
    from recsys.training.run.folder import read_run
    from recsys.training.tables.report import report_run

    settings = read_run(run_dir)[0].data
    with progress(notes, "reading the data") as work:
        loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
        work.stage("counting ids and rows")
        found = report_run(run_dir, loaded.dataset)
    if png is not None:
        from recsys.plots import write_png

        write_png(_charts(found), png)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    _print_report(found)
    if png is not None:
        output.print(f"\n{png}", soft_wrap=True, highlight=False)


@app.command()
def grow(
    run_dir: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the grown run to write.")],
    log: Annotated[
        str,
        typer.Option("--log", help="The new log: a folder that `recsys prepare` wrote with the run's FeatureSet."),
    ],
    admit: Annotated[int, typer.Option("--admit", help="Admit ids with at least so many events in the new log.")] = 5,
    evict: Annotated[
        str,
        typer.Option(
            "--evict",
            help="Ids that lose their rows: none, unseen (not in the new log), rarest in it, or oldest (seen last "
            "the longest ago); the last two as many as newcomers lack room.",
        ),
    ] = "none",
    evict_count: Annotated[
        int | None, typer.Option("--evict-count", help="Ids per table that --evict takes, at most.")
    ] = None,
    recluster: Annotated[
        bool, typer.Option("--recluster", help="Cluster graph tables anew, from the run's data and the new log.")
    ] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Give ids that came after training rows of a run's tables; the graphs of its model stay as they are."""
    from recsys.data.datasets import load_dataset
    from recsys.data.samples.dataset import Dataset
    from recsys.embeddings.row_maps.growth import EVICT
    from recsys.progress import progress
    from recsys.training.run.folder import read_run
    from recsys.training.tables.growth.grow import GrowthOptions, grow_run

    policy = next((each for each in EVICT if each == evict), None)
    if policy is None:
        raise ConfigError(f"--evict {evict!r}: {nearest(evict, EVICT)}")
    settings = read_run(run_dir)[0].data

    def load(name: str) -> Dataset:
        return load_dataset(name, recent=settings.recent, work_dir=work_dir, path=data).dataset

    with progress(notes, "counting ids") as work:
        tables = grow_run(
            run_dir,
            out,
            load(log),
            options=GrowthOptions(admit_count=admit, evict=policy, evict_count=evict_count, recluster=recluster),
            trained_on=lambda: load(settings.dataset),
            report=work.stage,
        )
    if as_json:
        print(json.dumps({"run_dir": str(out), "tables": [dataclasses.asdict(each) for each in tables]}))
        return
    _print_growth(tables)
    if not any(each.admitted or each.evicted for each in tables if each.grows):
        output.print("nothing was admitted or evicted: the new run answers as the old one")
    following = f"\nNext: recsys export {out} --out {out}/bundle{where_data_is(data, work_dir)}"
    output.print(following, soft_wrap=True, highlight=False, markup=False)


def _print_growth(tables: Sequence[TableGrowth]) -> None:
    shown = _table("table", "map", numbers=("admitted", "evicted", "no room", "no cluster", "ids now", "room left"))
    for each in tables:
        if not each.grows:
            shown.add_row(each.table, each.kind, *["-"] * 6)
            continue
        numbers = (each.admitted, each.evicted, each.no_room, each.no_cluster, each.known, each.room)
        shown.add_row(each.table, each.kind, *(f"{n:,}" for n in numbers))
    output.print(shown)
    if not all(each.grows for each in tables):
        output.print("-: maps of this kind have a row for every id, and nothing to grow")
    if lacking := sum(each.no_room for each in tables):
        notes.print(
            f"{lacking:,} ids found no room and stay unknown: reserve more with rows.spare_rows when you train, or "
            "make room with --evict",
            highlight=False,
            soft_wrap=True,
        )


def _print_report(found: RunReport) -> None:
    never = ["?" if each.never_updated is None else f"{each.never_updated:,}" for each in found.rows]
    lengths = [" ".join(f"{each.norms[q]:.2f}" for q in (1, 2, 3)) if each.norms else "-" for each in found.rows]
    no_rows = _print_columns(
        {"rows of": [each.name for each in found.rows]},
        {
            "rows": [f"{each.rows:,}" for each in found.rows],
            "width": [f"{each.dim:,}" for each in found.rows],
            "used": [f"{each.used:,}" for each in found.rows],
            "spare": [f"{each.spare:,}" for each in found.rows],
            "unused": [f"{each.unused:,}" for each in found.rows],
            "never updated": never,
            "length 10|50|90 %": lengths,
            "MiB": [_mib(each.size_bytes + each.optimizer_bytes) for each in found.rows],
        },
    )
    kinds = [each.kind if each.lookups == 1 else f"{each.kind} x {each.lookups}" for each in found.ids]
    output.print()
    no_ids = _print_columns(
        {"ids of": [each.table for each in found.ids], "map": kinds},
        {
            "ids": [f"{each.ids:,}" for each in found.ids],
            "known": [f"{each.known_ids:,}" for each in found.ids],
            "unknown": [f"{each.unknown_ids:,}" for each in found.ids],
            "collide": [f"{each.colliding_ids:,}" for each in found.ids],
            "their lookups": [f"{each.colliding_lookups:.1%}" for each in found.ids],
            "meet others": [f"{each.meeting_ids:,}" for each in found.ids],
            "lookups of these": [f"{each.meeting_lookups:.1%}" for each in found.ids],
            "MiB of maps": [_mib(each.map_bytes) for each in found.ids],
        },
    )
    zeros = [f"{what}: {', '.join(headings)}" for what, headings in (("rows", no_rows), ("ids", no_ids)) if headings]
    if zeros:
        output.print(f"\nall zeros, and left out: of {'; of '.join(zeros)}", highlight=False, soft_wrap=True)
    output.print("\nhottest ids, and their share of a table's lookups")
    for table in found.ids:
        hottest = ", ".join(f"{hot.id} ({hot.share:.1%})" for hot in table.hottest[:_HOTTEST_SHOWN])
        output.print(f"  {table.table}: {hottest}", highlight=False, soft_wrap=True, markup=False)
    from recsys.plots import print_chart

    for chart in _charts(found):
        output.print()
        print_chart(chart, output)


def _print_columns(names: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[str]]) -> list[str]:
    """Print a table without its columns of nothing but zeros; returns the headings of those."""
    zeros = [heading for heading, shown in numbers.items() if not any(re.search("[^0.%]", each) for each in shown)]
    kept = {heading: shown for heading, shown in numbers.items() if heading not in zeros}
    table = _table(*names, numbers=tuple(kept))
    for row in zip(*names.values(), *kept.values(), strict=True):
        table.add_row(*row)
    output.print(table)
    return zeros


def _table(*names: str, numbers: Sequence[str]) -> Table:
    """Columns of names, then of numbers; only headings wrap, and close enough for 80 columns."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _charts(found: RunReport) -> list[Bars | Chart]:
    from recsys.plots import Bars, Chart, Series

    by_size = sorted(found.rows, key=lambda each: -each.used)
    # A histogram of fewer rows than this says nothing.
    many = [each for each in by_size if each.used >= 4 * len(each.norm_counts)][:_CURVES] or by_size[:1]
    curves = [
        Series(
            name=each.name,
            x=[(low + high) / 2 for low, high in zip(each.norm_edges, each.norm_edges[1:], strict=False)],
            y=[100 * count / max(1, each.used) for count in each.norm_counts],
            line=True,
        )
        for each in many
    ]
    used = [round(100 * each.used / each.rows, 1) for each in found.rows]
    colliding = [round(100 * each.colliding_lookups, 1) for each in found.ids]
    shared = Bars("Lookups of ids that share all their rows", [each.table for each in found.ids], colliding, "%")
    return [
        Bars("Rows used", [each.name for each in found.rows], used, "%"),
        *((shared,) if any(colliding) else ()),
        Chart("Length of used rows", "length", "% of the rows used", curves),
    ]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f}"
