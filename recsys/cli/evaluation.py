"""Commands that say what a run's model is worth: `evaluate` one, `compare` two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, notes, output
from recsys.errors import ConfigError

SplitOption = Annotated[str, typer.Option("--split", help="validation, test or train.")]
SegmentsOption = Annotated[
    bool, typer.Option("--segments", help="Also by earlier events, and for new users and items.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the resampling.")]


def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    split: SplitOption = "test",
    by_segment: SegmentsOption = False,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=0, help="Resample users so often, for 95 % intervals; 1000 is usual.")
    ] = 0,
    seed: SeedOption = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a reliability plot to this PNG file.")] = None,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Metrics of a run's model: AUC, GAUC, log loss, calibration; HR@10, NDCG@10 of candidate lists."""
    from recsys.data.datasets import load_dataset
    from recsys.evaluation.evaluate import measure, resample, segments
    from recsys.evaluation.predictions import write_predictions
    from recsys.evaluation.report import metrics_json, metrics_table, reliability_charts, segments_table
    from recsys.plots import write_png
    from recsys.training.run.folder import is_retrieval_run
    from recsys.training.trained import load_run, predict_run

    if is_retrieval_run(run_dir):
        from recsys.cli.retrieval import evaluate_retrieval

        if by_segment or bootstrap or plot is not None:
            raise ConfigError(
                f"{run_dir} ranks all items; --segments, --bootstrap and --plot are for click prediction. "
                "`recsys compare` resamples users of such runs"
            )
        evaluate_retrieval(run_dir, split=split, data=data, work_dir=work_dir, as_json=as_json)
        return
    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    predictions = predict_run(trained, loaded.dataset, split)
    if predictions is None:
        if as_json:
            print("{}")
        else:
            notes.print(f"the {split} split is empty: there is nothing to measure")
        return
    metrics = measure(predictions)
    write_predictions(run_dir, {split: predictions})
    drawn = resample(predictions, resamples=bootstrap, seed=seed) if bootstrap else None
    parts = segments(predictions) if by_segment else None
    if plot is not None:
        write_png(reliability_charts(predictions, title=f"{trained.config.recipe}, {split}"), plot)
    if as_json:
        print(json.dumps({split: metrics_json(metrics, drawn=drawn, parts=parts)}))
        return
    output.print(metrics_table(split, metrics, drawn))
    if parts is not None:
        output.print()
        output.print(segments_table(parts))


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of run A.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of run B, measured on the same samples.")],
    split: SplitOption = "test",
    by_segment: SegmentsOption = False,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=1, help="How often users are resampled.")] = 1000,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Whether run A is better than run B: paired differences on the same samples, with 95 % intervals."""
    from recsys.evaluation.comparison import compare_predictions, compare_segments, compare_user_values
    from recsys.evaluation.predictions import USER_FILE, read_predictions, read_user_values
    from recsys.evaluation.report import comparison_json, comparison_table, segment_comparison_table

    pairs = None
    ranking = [folder for folder in (run_a, run_b) if (folder / USER_FILE).exists()]
    if len(ranking) == 1:
        raise ConfigError(f"{ranking[0]} ranks all items, the other run does not; allowed: two runs of one kind")
    if ranking:
        if by_segment:
            raise ConfigError(f"{run_a} and {run_b} rank all items; --segments is for click prediction")
        ranked = [read_user_values(folder, split) for folder in (run_a, run_b)]
        differences = compare_user_values(*ranked, resamples=bootstrap, seed=seed)
    else:
        a, b = (read_predictions(folder, split) for folder in (run_a, run_b))
        differences = compare_predictions(a, b, resamples=bootstrap, seed=seed)
        pairs = compare_segments(a, b, resamples=bootstrap, seed=seed) if by_segment else None
    if as_json:
        facts: dict[str, Any] = {"a": str(run_a), "b": str(run_b), "split": split, "resamples": bootstrap}
        print(json.dumps({**facts, **comparison_json(differences, pairs)}))
        return
    output.print(comparison_table(differences))
    if pairs is not None:
        output.print()
        output.print(segment_comparison_table(pairs))
