"""`train` and `evaluate` of models that rank all items."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from recsys.cli.options import notes, output

if TYPE_CHECKING:
    from recsys.data.interactions import Interactions
    from recsys.training.retrieval_config import InteractionsConfig, RetrievalRunConfig
    from recsys.training.retrieval_ranking import RankingMetrics


def train_retrieval(
    config: RetrievalRunConfig,
    *,
    run_dir: Path | None,
    resume: bool,
    data: Path | None,
    overrides: list[str],
    as_json: bool,
) -> None:
    """Train, test, and leave checkpoint and metrics in the run's folder."""
    from recsys.progress import training_progress
    from recsys.training.retrieval_loop import train_retrieval_run

    run_dir = run_dir or Path("runs") / config.recipe
    interactions = load(config.data, data)
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


def evaluate_retrieval(run_dir: Path, *, split: str, data: Path | None, as_json: bool) -> None:
    """Metrics of a run's model on a part of its data."""
    from recsys.training.retrieval_folder import read_retrieval_config
    from recsys.training.retrieval_loop import evaluate_retrieval_run

    config = read_retrieval_config(run_dir)
    interactions = load(config.data, data)
    if split == "validation" and not len(interactions.validation):
        if as_json:
            print("{}")
        else:
            notes.print("the validation split is empty: there is nothing to measure")
        return
    figures = {split: evaluate_retrieval_run(run_dir, interactions, split)}
    if as_json:
        print(json.dumps(_values(figures)))
    else:
        _print(figures, config.train.list_length)


def load(config: InteractionsConfig, data: Path | None) -> Interactions:
    """A run's interactions, in their parts."""
    from recsys.data.interactions import find_interactions, load_interactions
    from recsys.training.retrieval_config import INTERACTIONS

    folder = find_interactions(INTERACTIONS.get(config.dataset, config.dataset), data)
    return load_interactions(folder, validation_share=config.validation_share)


def _values(figures: Mapping[str, RankingMetrics | None]) -> dict[str, Any]:
    return {split: dataclasses.asdict(m) for split, m in figures.items() if m is not None}


def _print(figures: Mapping[str, RankingMetrics | None], k: int) -> None:
    table = Table("split", f"recall@{k}", f"NDCG@{k}", f"hit rate@{k}", "coverage", "users", box=None)
    for split, m in figures.items():
        if m is not None:
            shares = (f"{value:.4f}" for value in (m.recall, m.ndcg, m.hit_rate, m.coverage))
            table.add_row(split, *shares, f"{m.users:,}")
    output.print(table)
