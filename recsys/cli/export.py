"""`recsys export`: a run's model as a bundle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, notes, output, print_lines
from recsys.errors import ConfigError, nearest

if TYPE_CHECKING:
    from recsys.bundle import Compute, Manifest, Quantization

COARSE_KINDS = ("int8", "1bit", "2bit", "4bit", "none")
"""Those of ``export.retrieval.codes``."""

QUANTIZED_KINDS = ("none", "fp16", "int8", "int4")
"""Those of ``embeddings.quantize``, which is not imported here: torch takes seconds to load."""


def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Model name. Default: the FeatureSet's; of published data the recipe's."),
    ] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize",
            metavar="[TABLE=]KIND",
            help="Storage of rows: none (float32), fp16, int8 or int4; TABLE=KIND for one table. May be repeated.",
        ),
    ] = None,
    compute: Annotated[
        str,
        typer.Option(
            "--compute", help="Arithmetic of the matrix products: float32, or int8, faster on processors with VNNI."
        ),
    ] = "float32",
    names: Annotated[
        bool,
        typer.Option(
            "--names/--no-names", help="Keep the texts of string ids in the bundle; those of user ids never are."
        ),
    ] = True,
    segment: Annotated[
        str | None,
        typer.Option(
            "--segment",
            metavar="FEATURE",
            help="Of a model that ranks all items: feature of users, such as a country, by which those whom it does "
            "not know get what is popular. Default: what is popular with all.",
        ),
    ] = None,
    segment_half_life_days: Annotated[
        float | None,
        typer.Option(
            "--segment-half-life-days",
            help="With --segment: days after which a pair counts half for it; 0: never. Default: 30.",
        ),
    ] = None,
    coarse: Annotated[
        str,
        typer.Option(
            "--coarse",
            help="Of a model that ranks all items: codes of the items that a search reads before their vectors: int8 "
            "or none, with the same, exact lists; or 1bit, 2bit or 4bit, smaller and faster, whose lists keep a share "
            "of those, which is measured.",
        ),
    ] = "int8",
    neighbours: Annotated[
        int,
        typer.Option(
            "--neighbours",
            min=0,
            help="Of a model that ranks all items: entries of a list for each item of those that share most users with "
            "it, for `recsys similar --by users`; 0: no lists. 50 is enough for a page.",
        ),
    ] = 0,
    audience: Annotated[
        bool,
        typer.Option(
            "--audience",
            help="Of a model that ranks all items: keep which users have which items, for `recsys audience`. The "
            "bundle then holds personal data.",
        ),
    ] = False,
    coarse_recall: Annotated[
        float | None,
        typer.Option(
            "--coarse-recall",
            help="With --coarse 1bit, 2bit or 4bit: least share of exact lists that must be kept, above 0, up to 1; an "
            "index that keeps less is not written. Default: 0.999.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write a run's model as an ONNX bundle, with a certificate that it answers as the trained model does."""
    kinds = quantize_options(quantize or [])
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if segment_half_life_days is not None and segment is None:
        raise ConfigError("--segment-half-life-days has no use without --segment; give both, or neither")
    if coarse not in COARSE_KINDS:
        raise ConfigError(f"--coarse is {coarse!r}: {nearest(coarse, COARSE_KINDS)}")
    if coarse_recall is not None and not coarse.endswith("bit"):
        raise ConfigError(f"--coarse-recall has no use with --coarse {coarse}, whose lists are exact; leave it out")
    if coarse_recall is not None and not 0 < coarse_recall <= 1:
        raise ConfigError(f"--coarse-recall is {coarse_recall:g}; allowed: above 0, up to 1")
    from recsys.training.run.folder import is_retrieval_run

    if is_retrieval_run(run_dir):
        from recsys.cli.retrieval_runs import export_retrieval

        if quantize:
            raise ConfigError(f"--quantize is for ranking models; {run_dir} ranks all items")
        if compute != "float32":
            raise ConfigError(f"--compute is for ranking models; {run_dir} ranks all items")
        if not names:
            raise ConfigError(f"--no-names is for ranking models; {run_dir} ranks all items, which it answers by name")
        export_retrieval(
            run_dir,
            out,
            name=name,
            segment=segment,
            segment_half_life_days=segment_half_life_days,
            coarse=coarse,
            neighbours=neighbours,
            audience=audience,
            coarse_recall=coarse_recall,
            overwrite=overwrite,
            data=data,
            work_dir=work_dir,
            as_json=as_json,
        )
        return
    if segment is not None:
        raise ConfigError(f"--segment is for models that rank all items; {run_dir} is of a ranking model")
    if coarse != "int8":
        raise ConfigError(f"--coarse is for models that rank all items; {run_dir} is of a ranking model")
    if neighbours or audience:
        option = "--neighbours" if neighbours else "--audience"
        raise ConfigError(f"{option} is for models that rank all items; {run_dir} is of a ranking model")
    from recsys.progress import progress

    with progress(notes, "loading the training packages and the run") as work:
        from recsys.cli.retrieval_runs import print_manifest_metrics
        from recsys.data.datasets import load_dataset
        from recsys.evaluation.baselines import baseline_values, baselines_json, baselines_of
        from recsys.evaluation.evaluate import measure
        from recsys.evaluation.report import verdict_lines
        from recsys.export.onnx import export_bundle
        from recsys.features.names import NAMES_SUFFIX
        from recsys.recipes import model_name
        from recsys.training.run.record import run_date
        from recsys.training.trained import load_run, predict_run

        trained = load_run(run_dir)
        settings = trained.config.data
        work.stage("reading the data")
        loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
        work.stage("measuring the model on the test split")
        predictions = predict_run(trained, loaded.dataset, "test")
        metrics = None if predictions is None else measure(predictions)
        baselines = () if predictions is None else baselines_of(predictions, metrics)
        manifest = export_bundle(
            trained,
            loaded.dataset,
            out,
            name=name or model_name(trained.config, trained.features.name),
            predictions=predictions,
            baselines=baseline_values(baselines),
            quantize=kinds,
            compute=compute,
            names=names,
            overwrite=overwrite,
            created_at=run_date(run_dir),
            begin=work.stage,
        )
    certificate, tables = manifest.certificate, _table_sizes(manifest)
    texts = {
        file.removeprefix("tables/").removesuffix(NAMES_SUFFIX): size_bytes
        for file, (size_bytes, _) in manifest.files.items()
        if file.endswith(NAMES_SUFFIX)
    }
    if as_json:
        facts = {"bundle": str(out), "model": manifest.model, "version": manifest.version, "tables": tables}
        facts["names"] = texts
        facts |= {"metrics": dict(manifest.metrics), "baselines": baselines_json(baselines)}
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
    print_manifest_metrics(manifest)
    print_lines(verdict_lines(baselines))
    if manifest.quantization is not None:
        _print_losses(manifest.quantization, manifest.metrics)
    if manifest.compute is not None:
        _print_compute(manifest.compute)
    if texts:
        shown_texts = ", ".join(f"{name} {size_bytes / 1000:,.1f} KB" for name, size_bytes in texts.items())
        output.print(f"texts of ids: {shown_texts}", soft_wrap=True, highlight=False, markup=False)
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}\n"
        f"certificate: largest logit difference {certificate.max_abs_logit_difference:.1e} on "
        f"{certificate.candidates:,} candidates of {certificate.requests} requests "
        f"(allowed {certificate.tolerance:.0e}; {certificate.compared})\n"
        f"\nNext: {_filling_the_store(settings.dataset)}recsys serve {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _filling_the_store(dataset: str) -> str:
    """The command before `recsys serve` for a log of one's own, whose users and items the store must know."""
    from recsys.data.sources.raw_log import DATASETS

    own = dataset not in DATASETS and Path(dataset).is_dir()
    return f"recsys materialize {dataset}\n      " if own else ""


def quantize_options(options: list[str]) -> dict[str, str]:
    """Parse ``--quantize``: table -> kind, ``*`` for the others.

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
                "size_bytes": info.size_bytes,
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
