"""`train`, `evaluate` and `export` of models that rank all items."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from recsys.cli.options import notes, output, where_data_is

if TYPE_CHECKING:
    from recsys.data.interactions.pairs import Interactions
    from recsys.training.retrieval.config import InteractionsConfig, RetrievalRunConfig
    from recsys.training.retrieval.ranking import RankingMetrics


def train_retrieval(
    config: RetrievalRunConfig,
    *,
    run_dir: Path | None,
    resume: bool,
    data: Path | None,
    work_dir: Path,
    overrides: list[str],
    as_json: bool,
) -> None:
    """Train, test, and leave checkpoint and metrics in the run's folder."""
    from recsys.progress import progress, training_progress
    from recsys.training.retrieval.loop import train_retrieval_run

    run_dir = run_dir or Path("runs") / config.recipe
    with progress(notes, "reading the data"):
        interactions = load(config.data, data, work_dir)
    notes.print(f"data: {interactions.source}", markup=False)
    with training_progress(notes) as report:
        result = train_retrieval_run(config, interactions, run_dir, resume=resume, overrides=overrides, report=report)
    figures = {"validation": result.validation, "test": result.test}
    if as_json:
        facts: dict[str, Any] = {"run_dir": str(run_dir), **_values(figures)}
        if result.best_epoch is not None:
            facts["best_epoch"] = result.best_epoch
        print(json.dumps({**facts, "epochs": result.epochs, "samples_per_s": round(result.pairs_per_s)}))
        return
    _print(figures, config.train.list_length)
    if result.best_epoch is not None:
        output.print(f"weights: the best by validation recall, those of epoch {result.best_epoch:,}")
    following = f"\nNext: recsys export {run_dir} --out {run_dir}/bundle{where_data_is(data, work_dir)}"
    output.print(following, soft_wrap=True, highlight=False, markup=False)


def evaluate_retrieval(run_dir: Path, *, split: str, data: Path | None, work_dir: Path, as_json: bool) -> None:
    """Metrics of a run's model on a part of its data."""
    from recsys.progress import progress
    from recsys.training.retrieval.evaluate import evaluate_retrieval_run
    from recsys.training.retrieval.folder import read_retrieval_config

    config = read_retrieval_config(run_dir)
    with progress(notes, "reading the data"):
        interactions = load(config.data, data, work_dir)
    if split == "validation" and not len(interactions.validation):
        if as_json:
            print("{}")
        else:
            notes.print("the validation split is empty: there is nothing to measure")
        return
    with progress(notes, "ranking all items for each user"):
        figures = {split: evaluate_retrieval_run(run_dir, interactions, split)}
    if as_json:
        print(json.dumps(_values(figures)))
    else:
        _print(figures, config.train.list_length)


def export_retrieval(
    run_dir: Path,
    out: Path,
    *,
    name: str | None,
    overwrite: bool,
    data: Path | None,
    work_dir: Path,
    as_json: bool,
) -> None:
    """Write a run's model as a bundle that retrieves."""
    from recsys.export.retrieval.bundle import export_retrieval_bundle
    from recsys.progress import progress
    from recsys.recipes import model_name
    from recsys.training.retrieval.folder import read_retrieval_config

    config = read_retrieval_config(run_dir)
    with progress(notes, "reading the data") as work:
        interactions = load(config.data, data, work_dir)
        work.stage("writing the tables, comparing lists")
        name = name or model_name(config, "")
        manifest = export_retrieval_bundle(run_dir, interactions, out, name=name, overwrite=overwrite)
    certificate = manifest.certificate
    sizes = {table: manifest.files[t.file][0] for table, t in manifest.tables.items()}
    if as_json:
        facts = {"bundle": str(out), "model": manifest.model, "version": manifest.version, "size_bytes": sizes}
        print(json.dumps({**facts, "metrics": dict(manifest.metrics), "parity": dataclasses.asdict(certificate)}))
        return
    shown = Table("table", "rows", "KB", box=None)
    for table, size_bytes in sizes.items():
        shown.add_row(table, f"{manifest.tables[table].shape[0]:,}", f"{size_bytes / 1000:,.1f}")
    output.print(shown)
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}\n"
        f"certificate: largest score difference {certificate.max_abs_logit_difference:.1e} on "
        f"{certificate.candidates:,} items of {certificate.requests:,} lists "
        f"(allowed {certificate.tolerance:.0e}; {certificate.compared})\n"
        f"\nNext: recsys serve RANKING_BUNDLE --retrieval {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def load(config: InteractionsConfig, data: Path | None, work_dir: Path) -> Interactions:
    """A run's interactions, in their parts."""
    from recsys.data.interactions.datasets import load_interaction_set

    return load_interaction_set(config.dataset, validation_share=config.validation_share, work_dir=work_dir, path=data)


def _values(figures: Mapping[str, RankingMetrics | None]) -> dict[str, Any]:
    return {split: dataclasses.asdict(m) for split, m in figures.items() if m is not None}


def _print(figures: Mapping[str, RankingMetrics | None], k: int) -> None:
    table = Table("split", f"recall@{k}", f"NDCG@{k}", f"hit rate@{k}", "coverage", "users", box=None)
    for split, m in figures.items():
        if m is not None:
            shares = (f"{value:.4f}" for value in (m.recall, m.ndcg, m.hit_rate, m.coverage))
            table.add_row(split, *shares, f"{m.users:,}")
    output.print(table)
