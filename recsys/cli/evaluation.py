"""`evaluate` and `compare` the models of runs; `results`, the tables made from recorded runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, notes, output, print_lines, show_warnings
from recsys.errors import ConfigError

SplitOption = Annotated[str, typer.Option("--split", help="Part of the data: validation, test or train.")]
SegmentsOption = Annotated[
    bool, typer.Option("--segments", help="Also by segment: length of history, new users, new items.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Random seed of the resampling.")]

results_app = typer.Typer(no_args_is_help=False, invoke_without_command=True, rich_markup_mode="markdown")
DocsOption = Annotated[Path, typer.Option("--docs", help="Folder with results.md and the records in results/.")]


def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    split: SplitOption = "test",
    by_segment: SegmentsOption = False,
    then: Annotated[
        Path | None,
        typer.Option(
            "--then",
            help="Of a run that ranks all items: rank its candidates by the model of this run of the same log, and "
            "measure both together.",
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", min=1, help="With --then: candidates ranked for each user. Default: 200."),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option("--users", min=0, help="With --then: a sample of so many test users; 0: all. Default: 1000."),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap", min=0, help="Bootstrap resamples of users, for 95 % intervals; 0: none. 1000 is usual."
        ),
    ] = 0,
    seed: SeedOption = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a reliability plot to this PNG file.")] = None,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Measure a run's model beside popularity and chance: AUC, GAUC, log loss, calibration; HR@10, NDCG@10 of lists."""
    from recsys.data.datasets import load_dataset
    from recsys.evaluation.baselines import RESAMPLES, baselines_json, baselines_of
    from recsys.evaluation.evaluate import measure, resample, segments
    from recsys.evaluation.predictions import write_predictions
    from recsys.evaluation.report import (
        lists_note,
        metrics_json,
        metrics_table,
        reliability_charts,
        segments_table,
        verdict_lines,
    )
    from recsys.plots import write_png
    from recsys.progress import progress
    from recsys.training.run.folder import is_retrieval_run
    from recsys.training.trained import load_run, predict_run

    if then is None and (candidates is not None or users is not None):
        raise ConfigError("--candidates and --users are of --then; allowed: with it")
    if is_retrieval_run(run_dir):
        from recsys.cli.retrieval_runs import evaluate_pair, evaluate_retrieval

        if bootstrap or plot is not None:
            raise ConfigError(
                f"{run_dir} ranks all items; --bootstrap and --plot are for click prediction. "
                "`recsys compare` resamples users of such runs"
            )
        if then is not None:
            if split != "test" or by_segment:
                raise ConfigError("--then measures the test split as a whole; allowed: without --split and --segments")
            evaluate_pair(
                run_dir,
                then,
                candidates=200 if candidates is None else candidates,
                users=1000 if users is None else users,
                data=data,
                work_dir=work_dir,
                as_json=as_json,
            )
            return
        evaluate_retrieval(run_dir, split=split, by_segment=by_segment, data=data, work_dir=work_dir, as_json=as_json)
        return
    if then is not None:
        raise ConfigError(
            f"--then: {run_dir} ranks given items; allowed: a run that ranks all items, then one that ranks"
        )
    with progress(notes, "reading the data") as work:
        trained = load_run(run_dir)
        settings = trained.config.data
        loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
        show_warnings(loaded.dataset.samples.warnings)
        work.stage("scoring, samples")
        predictions = predict_run(trained, loaded.dataset, split, report=work.count)
    if predictions is None:
        if as_json:
            print("{}")
        else:
            notes.print(f"the {split} split is empty: there is nothing to measure")
        return
    with progress(notes, "measuring") as work:
        metrics = measure(predictions)
        write_predictions(run_dir, {split: predictions})
        parts = segments(predictions) if by_segment else None
        work.stage(f"resampling users {bootstrap or RESAMPLES:,} times")
        baselines = baselines_of(predictions, metrics, resamples=bootstrap or RESAMPLES, seed=seed)
        drawn = resample(predictions, resamples=bootstrap, seed=seed) if bootstrap else None
    if plot is not None:
        write_png(reliability_charts(predictions, title=f"{trained.config.recipe}, {split}"), plot)
    if as_json:
        values = metrics_json(metrics, drawn=drawn, parts=parts)
        print(json.dumps({split: values, "baselines": {split: baselines_json(baselines)}}))
        return
    output.print(metrics_table(split, metrics, baselines, drawn))
    print_lines([lists_note(metrics), *verdict_lines(baselines)])
    if parts is not None:
        output.print()
        output.print(segments_table(parts))


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of run A.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of run B, measured on the same samples.")],
    split: SplitOption = "test",
    by_segment: SegmentsOption = False,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=1, help="Bootstrap resamples of users.")] = 1000,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs on the same samples, and with popularity and chance: paired differences, 95 % intervals."""
    from recsys.evaluation.baselines import baselines_json, baselines_of, baselines_of_stored_lists
    from recsys.evaluation.comparison import compare_predictions, compare_segments, compare_user_values, shared_users
    from recsys.evaluation.predictions import USER_FILE, read_predictions, read_user_values
    from recsys.evaluation.report import (
        beside_table,
        comparison_json,
        comparison_table,
        segment_comparison_table,
        verdict_lines,
    )
    from recsys.progress import progress

    pairs, users, measured = None, None, []
    resampling = f"resampling users {bootstrap:,} times"
    ranking = [folder for folder in (run_a, run_b) if (folder / USER_FILE).exists()]
    if len(ranking) == 1:
        raise ConfigError(f"{ranking[0]} ranks all items, the other run does not; allowed: two runs of one kind")
    if ranking:
        if by_segment:
            raise ConfigError(f"{run_a} and {run_b} rank all items; --segments is for click prediction")
        measured = [read_user_values(folder, split) for folder in (run_a, run_b)]
        ranked = shared_users(*measured)
        users = len(ranked[0].user_G)
        with progress(notes, resampling):
            differences = compare_user_values(*ranked, resamples=bootstrap, seed=seed)
            beside = [baselines_of_stored_lists(each, resamples=bootstrap, seed=seed) for each in ranked]
    else:
        a, b = (read_predictions(folder, split) for folder in (run_a, run_b))
        with progress(notes, resampling) as work:
            differences = compare_predictions(a, b, resamples=bootstrap, seed=seed)
            work.stage("resampling users, beside popularity and chance")
            beside = [baselines_of(each, resamples=bootstrap, seed=seed) for each in (a, b)]
            work.stage("resampling users, segment by segment")
            pairs = compare_segments(a, b, resamples=bootstrap, seed=seed) if by_segment else None
    if as_json:
        facts: dict[str, Any] = {"a": str(run_a), "b": str(run_b), "split": split, "resamples": bootstrap}
        facts["baselines"] = {name: baselines_json(each) for name, each in zip("ab", beside, strict=True)}
        facts |= {} if users is None else {"users": users}
        print(json.dumps({**facts, **comparison_json(differences, pairs)}))
        return
    if any(len(each.user_G) != users for each in measured):
        counts = ", ".join(f"{name} on {len(each.user_G):,}" for name, each in zip("AB", measured, strict=True))
        output.print(f"measured: {counts} users; compared on the {users:,} of both", highlight=False, soft_wrap=True)
    output.print(comparison_table(differences))
    output.print()
    output.print(beside_table(differences, beside[0]))
    print_lines([f"{name}: {line}" for name, each in zip("AB", beside, strict=True) for line in verdict_lines(each)])
    if pairs is not None:
        output.print()
        output.print(segment_comparison_table(pairs))


@results_app.callback()
def results(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if the page differs from the recorded runs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each row as one line of JSON; write nothing.")] = False,
    docs: DocsOption = Path("docs"),
) -> None:
    """Rewrite the tables and pictures of docs/results.md from the recorded runs."""
    if context.invoked_subcommand is not None:
        return
    from recsys.results.page import RECORDS, stale, update
    from recsys.results.protocols import TABLES
    from recsys.results.records import read_all
    from recsys.results.rows import ROWS
    from recsys.results.tables import row_json

    if as_json and check:
        raise ConfigError("--check and --json are two different things; allowed: one of them")
    if as_json:
        runs = read_all(docs / RECORDS, ROWS)
        tables = {table.name: table for table in TABLES}
        for row in ROWS:
            print(json.dumps(row_json(row, tables[row.table], runs[row.name])))
    elif check:
        found = stale(docs)
        for file in found:
            notes.print(f"{file} is not as the recorded runs say; `recsys results` writes it", highlight=False)
        if found:
            raise typer.Exit(1)
    else:
        from recsys.progress import progress

        with progress(notes, "drawing pictures and tables of the recorded runs"):
            written = update(docs)
        for file in written or ["nothing to write"]:
            output.print(file, highlight=False)


@results_app.command("add")
def add_run(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    row: Annotated[
        str | None, typer.Option("--row", help="Row it belongs to. Default: by recipe and overrides.")
    ] = None,
    docs: DocsOption = Path("docs"),
) -> None:
    """Record a finished run under its row, replacing the one of the same seed."""
    from recsys.results.page import RECORDS, read_page
    from recsys.results.records import add
    from recsys.results.rows import ROWS

    read_page(docs)  # or the record would be written where no page is
    file = add(run_dir, ROWS, docs / RECORDS, row=row)
    output.print(f"{file}; now: recsys results", highlight=False, soft_wrap=True)
