"""Commands of the offline side: the demo, recipes, training, evaluation, export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recsys.cli.options import (
    WORK_DIR,
    DataOption,
    JsonOption,
    OverridesArgument,
    WorkOption,
    notes,
    output,
    where_data_is,
)
from recsys.errors import ConfigError, nearest

if TYPE_CHECKING:
    from recsys.bundle import Compute, Manifest, Quantization

QUANTIZED_KINDS = ("none", "fp16", "int8", "int4")
"""Those of ``embeddings.quantize``, which is not imported here: torch takes seconds to load."""


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
    from recsys.recipes import RECIPES, RETRIEVAL_RECIPES

    known = sorted({**RECIPES, **RETRIEVAL_RECIPES}.items())
    about = {name: (make.__doc__ or "").strip() for name, make in known}
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
    warm_start: Annotated[
        Path | None,
        typer.Option("--warm-start", help="Begin with the rows and layers of an older run's folder, or of a bundle."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Train only on samples from then on: a time (2001-02-03T04:05:06Z), or a duration before the newest "
            "(36h, 1d). With --warm-start the older run's ids keep their rows.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to the folder tensorboard of the run.")
    ] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print where each table would go, and stop.")] = False,
    processes: Annotated[int, typer.Option("--processes", help="With --plan: of the run, on all hosts.")] = 1,
    hosts: Annotated[int, typer.Option("--hosts", help="With --plan: with equally many processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, evaluate it, and leave checkpoint and metrics in the run's folder."""
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.recipes import recipe as find_recipe
    from recsys.training.config import override, to_json

    if recipe in RETRIEVAL_RECIPES:
        ranking_only = {"--warm-start": warm_start, "--since": since, "--tensorboard": tensorboard, "--plan": plan}
        if given := [option for option, value in ranking_only.items() if value]:
            raise ConfigError(f"{given[0]} is for ranking models; {recipe} ranks all items")
        _train_retrieval(recipe, list(overrides or []), run_dir, resume, data, work_dir, show, as_json)
        return
    changes = list(overrides or [])
    if warm_start is not None:
        changes.append(f"train.warm_start={json.dumps(str(warm_start))}")
    if since is not None:
        changes.append(f"data.since={json.dumps(since)}")
    if tensorboard:
        changes.append("train.tensorboard=true")
    config = override(find_recipe(recipe), changes)
    if show:
        print(to_json(config))
        return
    from recsys.data.datasets import load_dataset
    from recsys.embeddings.sharding.shard import start_process_group
    from recsys.progress import training_progress
    from recsys.training.distributed import first_before_others, is_first, plan_table
    from recsys.training.loop import train as run_training
    from recsys.training.trained import default_device, plan_run

    device = default_device()
    start_process_group(device)
    run_dir = run_dir or Path("runs") / config.recipe
    console = notes if is_first() else Console(quiet=True)
    # The first process prepares the data, if it must; the others find it prepared.
    loaded = first_before_others(
        lambda: load_dataset(config.data.dataset, recent=config.data.recent, work_dir=work_dir, path=data)
    )
    console.print(f"data: {loaded.raw.source}", markup=False)
    if plan:
        planned = plan_run(config, loaded.dataset, device=device.type, processes=processes, hosts=hosts)
        if as_json:
            print(json.dumps([dataclasses.asdict(part) for part in planned]))
        else:
            output.print(plan_table(planned))
        return
    with training_progress(console) as report:
        result = run_training(
            config,
            loaded.dataset,
            run_dir,
            resume=resume,
            overrides=changes,
            report=report,
            show_plan=lambda planned: console.print(plan_table(planned)),
            show_start=lambda taken: console.print(str(taken), markup=False, highlight=False),
        )
    if not is_first():
        return
    figures = _metric_values(test=result.test, validation=result.validation)
    if as_json:
        facts: dict[str, Any] = {"run_dir": str(run_dir), **figures}
        if result.samples_per_s > 0:  # 0: resumed after the last step
            facts["samples_per_s"] = round(result.samples_per_s)
        print(json.dumps(facts if result.best_step is None else {**facts, "best_step": result.best_step}))
        return
    _print_metrics(figures)
    if result.best_step is not None:
        output.print(f"weights: the best by {config.train.monitor}, those after step {result.best_step:,}")
    following = f"\nNext: recsys export {run_dir} --out {run_dir}/bundle{where_data_is(data, work_dir)}"
    output.print(following, soft_wrap=True, highlight=False, markup=False)


def _train_retrieval(
    recipe: str,
    overrides: list[str],
    run_dir: Path | None,
    resume: bool,
    data: Path | None,
    work_dir: Path,
    show: bool,
    as_json: bool,
) -> None:
    from recsys.cli.retrieval import train_retrieval
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.training.retrieval.config import override, to_json

    config = override(RETRIEVAL_RECIPES[recipe](), overrides)
    if show:
        print(to_json(config))
        return
    train_retrieval(
        config,
        run_dir=run_dir,
        resume=resume,
        data=data,
        work_dir=work_dir,
        overrides=overrides,
        as_json=as_json,
    )


def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option("--name", help="Model name. Default: the recipe's.")] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize",
            metavar="[TABLE=]KIND",
            help="How rows are stored: none (float32), fp16, int8 or int4; TABLE=KIND for one table. May be repeated.",
        ),
    ] = None,
    compute: Annotated[
        str,
        typer.Option(
            "--compute", help="Numbers of the matrix products: float32, or int8, faster on processors with VNNI."
        ),
    ] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write a run's model as an ONNX bundle, with a certificate that it answers as the trained model does."""
    kinds = quantize_options(quantize or [])
    from recsys.training.run.folder import is_retrieval_run

    if is_retrieval_run(run_dir):
        from recsys.cli.retrieval import export_retrieval

        if quantize:
            raise ConfigError(f"--quantize is for ranking models; {run_dir} ranks all items")
        if compute != "float32":
            raise ConfigError(f"--compute is for ranking models; {run_dir} ranks all items")
        export_retrieval(run_dir, out, name=name, overwrite=overwrite, data=data, work_dir=work_dir, as_json=as_json)
        return
    from recsys.data.datasets import load_dataset
    from recsys.export.onnx import export_bundle
    from recsys.training.trained import evaluate_run, load_run

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
            quantize=kinds,
            compute=compute,
            overwrite=overwrite,
        )
    certificate, tables = manifest.certificate, _table_sizes(manifest)
    if as_json:
        facts = {"bundle": str(out), "model": manifest.model, "version": manifest.version, "tables": tables}
        if manifest.quantization is not None:
            lost = dataclasses.asdict(manifest.quantization)
            facts["quantization"] = {**lost, "metrics": dict(manifest.metrics)}
        if manifest.compute is not None:
            facts["compute"] = dataclasses.asdict(manifest.compute)
        print(json.dumps({**facts, "parity": dataclasses.asdict(certificate)}))
        return
    shown = Table("table", "rows", "stored as", "KB", "float32 KB", box=None)
    for name, about in tables.items():
        sizes = (f"{about[key] / 1000:,.1f}" for key in ("size_bytes", "float32_bytes"))
        shown.add_row(name, f"{about['rows']:,}", about["quantized"], *sizes)
    output.print(shown)
    if manifest.quantization is not None:
        _print_losses(manifest.quantization, manifest.metrics)
    if manifest.compute is not None:
        _print_compute(manifest.compute)
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}\n"
        f"parity: largest logit difference {certificate.max_abs_logit_difference:.1e} on {certificate.candidates:,} "
        f"candidates of {certificate.requests} requests (allowed {certificate.tolerance:.0e}; {certificate.compared})\n"
        f"\nNext: recsys serve {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def quantize_options(options: list[str]) -> dict[str, str]:
    """What ``--quantize`` said: table -> kind, ``*`` for the others.

    >>> quantize_options(["int8", "user_id=fp16"])
    {'*': 'int8', 'user_id': 'fp16'}

    Raises:
        ConfigError: a table, or all others, are given twice; an unknown kind.
    """
    kinds: dict[str, str] = {}
    for option in options:
        table, equals, kind = option.rpartition("=")
        if equals and not table:
            raise ConfigError(f"--quantize {option}: no table before '='; expected KIND or TABLE=KIND")
        table = table or "*"
        if kind not in QUANTIZED_KINDS:
            raise ConfigError(f"--quantize {option}: kind {kind!r}: {nearest(kind, QUANTIZED_KINDS)}")
        if table in kinds:
            raise ConfigError(
                f"--quantize {option}: {'every other table' if table == '*' else table} has a kind already"
            )
        kinds[table] = kind
    return kinds


def _table_sizes(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Each embedding table's rows, how they are stored, and bytes so and in float32."""
    sizes = {}
    for name, info in manifest.tables.items():
        if name.endswith(".rows"):
            rows, stored = info.shape
            sizes[name.removesuffix(".rows")] = {
                "rows": rows,
                "quantized": info.quantized,
                "size_bytes": manifest.files[info.file][0],
                "float32_bytes": 4 * rows * (stored if info.width is None else info.width),
            }
    return sizes


def _print_compute(compute: Compute) -> None:
    output.print(
        f"{compute.kind} products: logits differ by {compute.mean_abs_logit_difference:.1e} on average, "
        f"{compute.max_abs_logit_difference:.1e} at most, on {compute.candidates:,} candidates of {compute.requests:,} "
        "test samples"
    )
    if compute.own_operators is not None:
        own = compute.own_operators["mean_abs_logit_difference"]
        output.print(f"with recsys's own operators: {own:.1e} on average")
    for name in ("auc", "log_loss"):
        before, after = compute.float32_metrics.get(name), compute.metrics.get(name)
        if before is not None and after is not None:
            output.print(f"{name} of these samples: {after:.4f}, with float32 {before:.4f} ({after - before:+.4f})")


def _print_losses(quantization: Quantization, metrics: Mapping[str, float | None]) -> None:
    output.print(f"quantised rows: largest logit difference {quantization.max_abs_logit_difference:.1e}")
    before = quantization.float32_metrics
    if not before or not metrics:
        return
    table = Table("test split", "AUC", "log loss", box=None)
    for name, figures in (("float32 rows", before), ("quantised rows", metrics)):
        table.add_row(name, f"{figures['auc']:.5f}", f"{figures['log_loss']:.5f}")
    lost = ((metrics[key] or 0.0) - (before[key] or 0.0) for key in ("auc", "log_loss"))
    table.add_row("difference", *(f"{difference:+.5f}" for difference in lost))
    output.print(table)


def _metric_values(**splits: Any) -> dict[str, dict[str, Any]]:
    return {split: dataclasses.asdict(m) for split, m in splits.items() if m is not None}


def _print_metrics(figures: dict[str, dict[str, Any]]) -> None:
    of_lists = {"HR@10": "hit_rate_at_10", "NDCG@10": "ndcg_at_10"} if any(m["lists"] for m in figures.values()) else {}
    shown = {"AUC": "auc", "GAUC": "gauc", "log loss": "log_loss", **of_lists}
    table = Table("split", *shown, "samples", "positives", box=None)
    for split, m in figures.items():
        values = ("none" if m[name] is None else f"{m[name]:.4f}" for name in shown.values())
        table.add_row(split, *values, f"{m['samples']:,}", f"{m['positives']:,}")
    output.print(table)
