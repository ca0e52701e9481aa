"""`recsys compress`: memory against quality, over row maps and budgets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.cli.options import (
    WORK_DIR,
    DataOption,
    JsonOption,
    OverridesArgument,
    WorkOption,
    notes,
    output,
    print_lines,
    where_data_is,
)
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.compress.comparison import Comparison, Shown
    from recsys.compress.ranking import RankingTrials
    from recsys.compress.retrieval import RetrievalTrials
    from recsys.compress.sweep import SweepProgress, Trials
    from recsys.training.config import RowConfig

Value = TypeVar("Value")

_EXACT_BELOW = 50
# int8, training, test's difference, the two metrics beside, maps, test: what a narrow terminal leaves to compress.md.
_LEAST_IMPORTANT_FIRST = (4, 11, 8, 10, 9, 3, 7)


def compress(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `recsys recipes` lists them.")],
    overrides: OverridesArgument = None,
    maps: Annotated[
        str, typer.Option("--maps", help="Row maps to try, comma-separated.")
    ] = "hash,double_hash,frequency,unified",
    budgets: Annotated[
        str,
        typer.Option("--budgets", help="Rows that each map may have, as shares of the distinct ids, comma-separated."),
    ] = "0.5,0.25,0.1",
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each configuration, for the error bars.")] = 3,
    quantize: Annotated[
        str,
        typer.Option(
            "--quantize",
            help="Storage by which tables' memory is counted: none, fp16, int8 or int4. Training stays in float32.",
        ),
    ] = "none",
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Validation AUC (recall of models that rank all items) that the recommended configuration may lose "
            "against the full vocabulary. Default: one standard error of the latter's, at least 0.001.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of runs and results. Default: runs/RECIPE-compress.")
    ] = None,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe with several row maps at several budgets, draw memory against quality, and recommend one.

    Quality is AUC; of models that rank all items it is recall, and memory that of the tables in training.

    Runs that are finished are kept in the folder and never trained again: a stopped command resumes, and
    a longer list of maps, budgets or seeds trains only what is new. `rows.exact_below` is 50 unless the recipe or
    you set it: budgets are for large tables.
    """
    from recsys.compress.comparison import CompressConfig
    from recsys.compress.report import charts, summary, to_json, verdict, write_report
    from recsys.compress.sweep import compress as run_comparison
    from recsys.embeddings.quantize import check_kind
    from recsys.plots import print_chart
    from recsys.recipes import RETRIEVAL_RECIPES

    settings = CompressConfig(
        maps=_list(maps, "--maps", str),  # it checks them
        budgets=_list(budgets, "--budgets", float),
        seeds=seeds,
        quantize=check_kind(quantize),
        tolerance=tolerance,
    )
    out = out or Path("runs") / f"{recipe}-compress"
    ranks_all = recipe in RETRIEVAL_RECIPES
    find = _retrieval_trials if ranks_all else _ranking_trials
    trials: Trials[Any] = find(recipe, overrides or [], data, work_dir)
    with _progress(notes, trials.shown) as report:
        comparison = run_comparison(trials, out, settings, report=report)
    write_report(comparison, out)
    if as_json:
        print(json.dumps({"out": str(out), **to_json(comparison)}))
        return
    for chart in charts(comparison)[:1]:
        print_chart(chart, output)
    output.print()
    output.print(_table(comparison, output.width))
    output.print(f"\n{summary(comparison)}", highlight=False, markup=False)
    print_lines([*(f"it is {line}" for line in verdict(comparison)), *comparison.shown.notes])
    best = out / "runs" / comparison.recommended.runs[0].run
    output.print(f"{out}: compress.png, compress.md, compress.json", markup=False, highlight=False, soft_wrap=True)
    # A bundle that retrieves holds final vectors, which are not the tables that were compared.
    stored = "" if settings.quantize == "none" or ranks_all else f" --quantize {settings.quantize}"
    following = f"\nNext: recsys export {best} --out {out}/bundle{stored}{where_data_is(data, work_dir)}"
    output.print(following, markup=False, highlight=False, soft_wrap=True)


def _ranking_trials(recipe: str, overrides: list[str], data: Path | None, work_dir: Path) -> RankingTrials:
    from recsys.compress.ranking import RankingTrials
    from recsys.data.datasets import load_dataset
    from recsys.progress import progress
    from recsys.recipes import recipe as find_recipe
    from recsys.training.settings import override

    config = find_recipe(recipe)
    config = override(config, [*_first(config.rows), *overrides])
    with progress(notes, "reading the data"):
        loaded = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=work_dir, path=data)
    notes.print(f"data: {loaded.raw.source}", markup=False)
    return RankingTrials(config, loaded.dataset)


def _retrieval_trials(recipe: str, overrides: list[str], data: Path | None, work_dir: Path) -> RetrievalTrials:
    from recsys.cli.retrieval_runs import load
    from recsys.compress.retrieval import RetrievalTrials, check_model
    from recsys.progress import progress
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.training.settings import override

    config = override(RETRIEVAL_RECIPES[recipe](), overrides)
    check_model(config)
    config = override(config, [*_first(config.rows), *overrides])
    with progress(notes, "reading the data"):
        interactions = load(config.data, data, work_dir)
    notes.print(f"data: {interactions.source}", markup=False)
    return RetrievalTrials(config, interactions)


def _first(rows: RowConfig) -> list[str]:
    return [] if rows.exact_below else [f"rows.exact_below={_EXACT_BELOW}"]


def _list(text: str, option: str, convert: Callable[[str], Value]) -> tuple[Value, ...]:
    try:
        return tuple(convert(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{option} is {text!r}; expected numbers with commas between, such as 0.5,0.25") from None


def _table(comparison: Comparison, width: int) -> Table:
    """As many columns as the terminal has room for."""
    from recsys.compress.report import COLUMNS, baseline_cells, cells, headers

    names, found, beside = headers(comparison), cells(comparison), baseline_cells(comparison)
    possible = [*(texts for texts in found if len(texts) == COLUMNS), *beside]
    widths = [max(len(texts[i]) for texts in (names, *possible)) + 2 for i in range(COLUMNS)]
    shown = set(range(COLUMNS))
    for column in _LEAST_IMPORTANT_FIRST:
        if sum(widths[i] for i in shown) > width:
            shown.discard(column)
    table = Table(box=None, pad_edge=False)
    for i in sorted(shown):
        table.add_column(names[i], justify="left" if i == 0 else "right", no_wrap=True)
    reasons = []
    for row, texts in zip(comparison.rows, found, strict=True):
        if row.impossible is not None:
            reasons.append(f"{row.choice}: {texts[-1]}")
            texts = (*texts[:2], "-", *[""] * COLUMNS)
        table.add_row(*(texts[i] for i in sorted(shown)), style="bold" if row is comparison.recommended else "")
    for texts in beside:
        table.add_row(*(texts[i] for i in sorted(shown)))
    if reasons:
        table.caption = Text("\n".join(reasons))
        table.caption_justify = "left"
    return table


@contextmanager
def _progress(console: Console, shown: Shown) -> Iterator[Callable[[SweepProgress], None]]:
    """Progress of the run that trains; a line for each that is done."""
    from recsys.progress import progress as show_progress

    started = time.monotonic()
    at = ""
    with show_progress(console, "before the first run") as work:

        def report(progress: SweepProgress) -> None:
            nonlocal at
            what = f"run {progress.number} of {progress.total}: {progress.choice}, seed {progress.seed}"
            if progress.training is not None:
                step = progress.training
                if what != at:
                    at = what
                    work.stage(f"{what}, steps", step.steps)
                work.count(step.step, step.steps, f"{step.samples_per_s:,.0f} samples/s")
                return
            work.stage(f"after run {progress.number} of {progress.total}")
            if progress.measured is None:
                outcome = f"not possible: {progress.impossible}"
            else:
                run: Any = progress.measured
                seconds = "" if run.train_s is None else f", trained in {run.train_s:.1f} s"
                outcome = f"validation {shown.label} {run.validation[shown.metric]:.4f}{seconds}"
            left = (time.monotonic() - started) / progress.number * (progress.total - progress.number)
            note = f"; about {left:,.0f} s left" if left else ""
            console.print(f"{what}: {outcome}{note}", highlight=False, markup=False, soft_wrap=True)

        yield report
