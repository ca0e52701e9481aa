"""Commands of the offline side: the demo, recipes, training, evaluation, export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.cli.options import (
    WORK_DIR,
    DataOption,
    JsonOption,
    OverridesArgument,
    WorkOption,
    notes,
    output,
)


def demo(
    overrides: OverridesArgument = None,
    data: DataOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Where everything is left.")] = Path("runs/demo"),
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Use the built-in synthetic log: seconds.")] = False,
    download: Annotated[bool, typer.Option(help="Whether MovieLens-1M may be downloaded.")] = True,
    as_json: JsonOption = False,
) -> None:
    """The whole way on real data: train DIN on MovieLens-1M, export, ingest, serve, rank. About 2 minutes."""
    from recsys.demo import run_demo

    figures = run_demo(
        folder,
        overrides=overrides or [],
        data=data,
        synthetic=synthetic,
        allow_download=download,
        console=notes,
        out=notes if as_json else output,
    )
    if as_json:
        print(json.dumps(figures))


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that `train` knows."""
    from recsys.recipes import RECIPES

    about = {name: (make.__doc__ or "").strip() for name, make in RECIPES.items()}
    if as_json:
        print(json.dumps(about))
        return
    table = Table("recipe", "what it is", box=None)
    for name, text in about.items():
        table.add_row(name, text)
    output.print(table)


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `recsys recipes` lists them.")],
    overrides: OverridesArgument = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run. Default: runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, evaluate it, and leave checkpoint and metrics in the run's folder."""
    from recsys.recipes import recipe as find_recipe
    from recsys.training.config import override, to_json

    config = override(find_recipe(recipe), overrides or [])
    if show:
        print(to_json(config))
        return
    from recsys.data.datasets import load_dataset
    from recsys.progress import training_progress
    from recsys.training.loop import train as run_training

    run_dir = run_dir or Path("runs") / config.recipe
    loaded = load_dataset(config.data.dataset, recent=config.data.recent, work_dir=work_dir, path=data)
    notes.print(f"data: {loaded.raw.source}", markup=False)
    with training_progress(notes) as report:
        result = run_training(config, loaded.dataset, run_dir, resume=resume, report=report)
    figures = _metric_values(test=result.test, validation=result.validation)
    if as_json:
        print(json.dumps({"run_dir": str(run_dir), **figures, "samples_per_s": round(result.samples_per_s)}))
        return
    _print_metrics(figures)
    output.print(f"\nNext: recsys export {run_dir} --out {run_dir}/bundle")


def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    split: Annotated[str, typer.Option("--split", help="validation, test or train.")] = "test",
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Metrics of a run's model: AUC, per-user AUC (GAUC), log loss."""
    from recsys.data.datasets import load_dataset
    from recsys.training.loop import evaluate_run, load_run

    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    figures = _metric_values(**{split: evaluate_run(trained, loaded.dataset, split)})
    if as_json:
        print(json.dumps(figures))
    else:
        _print_metrics(figures)


def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option("--name", help="Model name. Default: the recipe's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write a run's model as an ONNX bundle, with a certificate that it answers as the trained model does."""
    from recsys.data.datasets import load_dataset
    from recsys.export.onnx import export_bundle
    from recsys.training.loop import evaluate_run, load_run

    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    with notes.status("exporting: tracing the graphs, comparing answers"):
        metrics = evaluate_run(trained, loaded.dataset, "test")
        manifest = export_bundle(
            trained,
            loaded.dataset,
            out,
            name=name or trained.config.recipe,
            metrics=metrics,
            overwrite=overwrite,
        )
    parity = manifest.parity
    if as_json:
        facts = {"bundle": str(out), "model": manifest.model, "version": manifest.version}
        print(json.dumps({**facts, "parity": dataclasses.asdict(parity)}))
        return
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}\n"
        f"parity: largest logit difference {parity.max_abs_logit_difference:.1e} on {parity.candidates:,} candidates "
        f"of {parity.requests} requests (allowed {parity.tolerance:.0e}; {parity.compared})\n"
        f"\nNext: recsys serve {out}"
    )


def _metric_values(**splits: Any) -> dict[str, dict[str, Any]]:
    return {split: dataclasses.asdict(m) for split, m in splits.items() if m is not None}


def _print_metrics(figures: dict[str, dict[str, Any]]) -> None:
    table = Table("split", "AUC", "GAUC", "log loss", "samples", "positives", box=None)
    for split, m in figures.items():
        counts = (f"{m['samples']:,}", f"{m['positives']:,}")
        gauc = "none" if m["gauc"] is None else f"{m['gauc']:.4f}"
        table.add_row(split, f"{m['auc']:.4f}", gauc, f"{m['log_loss']:.4f}", *counts)
    output.print(table)
