"""GraphHash beside the hashing baselines, on Gowalla: recall and NDCG of matrix factorisation and LightGCN.

The protocol of GraphHash (Wu et al., WWW 2025, and its code): Louvain clusters of the training graph at resolution 200
set the number of rows of both tables; every baseline gets as many. Learning rate and weight decay of matrix
factorisation are the paper's for each method, those of LightGCN one pair for all. Departures are in
``docs/results.md``. A finished run is kept in ``--work`` by its configuration, so that an interrupted study goes on
where it was. Needs Gowalla's interactions (``--gowalla``).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from harness.common import Line, line, machine, main, parser, say

from recsys.data.interactions.pairs import Interactions, hold_out, load_interactions, make_pairs
from recsys.embeddings.row_maps.clusters import Clusters, cluster
from recsys.embeddings.row_maps.frequency import frequency_hash
from recsys.embeddings.row_maps.graph import graph_rows
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.lsh import lsh_rows
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.models.retrieval.mf import IdRows, full_rows, mapped_rows
from recsys.training.retrieval.full_batch import EpochProgress, FullBatchConfig, train_full_batch

RESOLUTION = 200.0
METHODS = ("full", "graph", "frequency", "hash", "double_hash", "double_frequency", "lsh")
MF_RATES = {
    "full": (5e-3, 1e-8),
    "graph": (1e-2, 1e-6),
    "frequency": (5e-3, 1e-6),
    "hash": (1e-3, 1e-6),
    "lsh": (1e-3, 1e-6),
    "double_hash": (5e-3, 1e-6),
    "double_frequency": (1e-3, 1e-6),
}
"""Learning rate and weight decay on Gowalla (snap-research/GraphHash, commands.sh)."""

LIGHTGCN_RATES = (4e-2, 1e-6)
"""For every method: by validation recall on seed 0 the better of 1e-2 and 4e-2 for graph and for double_frequency."""

EPOCHS = {"mf": 1000, "lightgcn": 250}
PATIENCE = {"mf": 50, "lightgcn": 250}
"""A full batch of LightGCN is one step of what the paper takes 700 for. Its recall first falls, then rises slowly to
the end; 1,000 epochs would take hours and change little (graph: validation recall .1372 after 300, .1391 after 500)."""


def rows_of(method: str, data: Interactions, clusters: Clusters, seed: int) -> tuple[IdRows, IdRows]:
    """The rows of all users and of all items under a method, as many in total as there are clusters of that side."""
    if method == "full":
        return full_rows(data.num_users), full_rows(data.num_items)
    users, items = data.train.user_E, data.train.item_E
    sides = (
        ("user", data.num_users, users, items, clusters.left_labels, clusters.num_left),
        ("item", data.num_items, items, users, clusters.right_labels, clusters.num_right),
    )
    made = []
    for table, size, own_E, other_E, labels, rows in sides:
        ids = np.arange(size)
        counts = np.bincount(own_E, minlength=size)
        maps: Mapping[str, Any] = {
            "graph": lambda t=table, i=ids, n=labels: graph_rows(t, i, n, seed=seed),
            "frequency": lambda t=table, i=ids, c=counts, r=rows: frequency_hash(t, i, c, rows=r + 1, seed=seed),
            "hash": lambda t=table, r=rows: hash_rows(t, rows=r + 1, seed=seed),
            "double_hash": lambda t=table, r=rows: hash_rows(t, rows=r + 1, functions=2, seed=seed),
            "double_frequency": lambda t=table, i=ids, c=counts, r=rows: frequency_hash(
                t, i, c, rows=r + 1, functions=2, seed=seed
            ),
            "lsh": lambda t=table, i=ids, e=(own_E, other_E), r=rows: lsh_rows(t, i, e, rows=r + 1, seed=seed),
        }
        row_map: RowMap = maps[method]()
        made.append(mapped_rows(row_map, ids))
    return made[0], made[1]


def one_run(method: str, config: FullBatchConfig, data: Interactions, clusters: Clusters, work: Path) -> dict[str, Any]:
    """Metrics of one run; from ``work`` if it was done before."""
    name = f"{config.model}-{method}-{config.learning_rate:g}-{config.weight_decay:g}-{config.seed}"
    file = work / f"{name}.json"
    wanted = {"method": method, "config": asdict(config), "resolution": RESOLUTION}
    if file.exists() and (kept := json.loads(file.read_text()))["wanted"] == wanted:
        return dict(kept["found"])

    def report(progress: EpochProgress) -> None:
        if progress.validation is not None and progress.epoch % 50 == 0:
            say(f"{name}: epoch {progress.epoch}, validation recall {progress.validation.capped_recall:.4f}")

    result = train_full_batch(config, data, *rows_of(method, data, clusters, config.seed), report=report)
    found = {
        "recall": result.test.capped_recall,
        "plain_recall": result.test.recall,
        "ndcg": result.test.ndcg,
        "validation_recall": result.validation.capped_recall,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": result.train_s + result.validation_s + result.test_s,
    }
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps({"wanted": wanted, "found": found}, indent=1))
    os.replace(temporary, file)
    say(f"{name}: recall {found['recall']:.4f}, ndcg {found['ndcg']:.4f}, {found['seconds']:.0f} s")
    return found


def study(
    model: str, given: argparse.Namespace, data: Interactions, clusters: Clusters
) -> Iterator[tuple[str, list[dict[str, Any]], tuple[float, float]]]:
    """Each method's runs, and the learning rate and weight decay they had."""
    epochs = min(given.epochs, EPOCHS[model])
    base = FullBatchConfig(model=model, epochs=epochs, patience=PATIENCE[model])
    for method in given.methods:
        rates = MF_RATES[method] if model == "mf" else LIGHTGCN_RATES
        config = replace(base, learning_rate=rates[0], weight_decay=rates[1])
        runs = [one_run(method, replace(config, seed=s), data, clusters, given.work) for s in range(given.seeds)]
        yield method, runs, rates


def measure(given: argparse.Namespace) -> Iterator[Line]:
    if given.size != "full":
        given.seeds, given.epochs, given.models, given.methods = 1, 10, ["mf"], ["graph", "double_frequency"]
    if given.size == "full" and not (given.gowalla / "train.txt.gz").exists():
        say(f"skipped: {given.gowalla} holds no train.txt.gz; give the folder of Gowalla's interactions with --gowalla")
        return
    if given.size == "full":
        given.work.mkdir(parents=True, exist_ok=True)
        yield from compare(given, load_interactions(given.gowalla))
        return
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        given.work = Path(folder)
        yield from compare(given, communities(users=300 if given.size == "tiny" else 3_000))


def communities(*, users: int, groups: int = 20) -> Interactions:
    """Users who like the items of their group: what a rough form takes in Gowalla's place."""
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((users, users)) < np.where(_same_group(users, groups), 0.3, 0.001))
    train, rest = hold_out(make_pairs(user, item), share=0.3, seed=0)
    test, validation = hold_out(rest, share=0.3, seed=0)
    return Interactions(
        num_users=users, num_items=users, train=train, validation=validation, test=test, source="planted communities"
    )


def _same_group(users: int, groups: int) -> Any:
    group = np.arange(users) % groups
    return group[:, None] == group


def compare(given: argparse.Namespace, data: Interactions) -> Iterator[Line]:
    """Every method's figures, and the gains."""
    clusters = cluster(
        data.train.user_E,
        data.train.item_E,
        num_left=data.num_users,
        num_right=data.num_items,
        resolution=RESOLUTION if given.size == "full" else 5.0,
    )
    rows, ids = clusters.num_left + clusters.num_right, data.num_users + data.num_items
    where = machine(["torch", "scikit-network"], rows=rows, ids=ids, seeds=given.seeds, epochs_at_most=given.epochs)
    say(f"{clusters.num_left} user and {clusters.num_right} item clusters: {100 * (1 - rows / ids):.1f} % fewer rows")
    for model in given.models:
        mean: dict[str, dict[str, float]] = {}
        for method, runs, rates in study(model, given, data, clusters):
            mean[method] = {name: fmean(run[name] for run in runs) for name in ("recall", "ndcg", "plain_recall")}
            deviation = {name: stdev(r[name] for r in runs) if len(runs) > 1 else 0.0 for name in ("recall", "ndcg")}
            for name in ("recall", "ndcg"):
                yield line(
                    f"graphhash.{model}.{method}.{name}",
                    mean[method][name],
                    f"{name}@20",
                    higher_is_better=True,
                    compared_with=f"the other methods at {rows} rows" if method != "full" else f"{ids} rows",
                    on=where,
                    deviation=deviation[name],
                    learning_rate=rates[0],
                    weight_decay=rates[1],
                    plain_recall=mean[method]["plain_recall"],
                )
        if {"graph", "double_frequency"} <= mean.keys():
            for name, target in (("recall", 1.015), ("ndcg", 0.883)):
                gain = mean["graph"][name] / mean["double_frequency"][name] - 1
                best = max((v[name], m) for m, v in mean.items() if m not in ("full", "graph"))
                yield line(
                    f"graphhash.{model}.{name}_gain",
                    gain,
                    "gain over double frequency hashing",
                    higher_is_better=True,
                    compared_with="double_frequency at the same number of rows",
                    on=where,
                    target=target,
                    best_baseline=best[1],
                    gain_over_best_baseline=mean["graph"][name] / best[0] - 1,
                )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "")
    data = Path(os.environ.get("RECSYS_DATA_DIR", "../shared/data"))
    made.add_argument("--gowalla", type=Path, default=data / "gowalla", help="folder of Gowalla's train and test")
    made.add_argument("--work", type=Path, default=Path("runs/graphhash"), help="where finished runs are kept")
    made.add_argument("--models", nargs="+", default=["mf", "lightgcn"], choices=["mf", "lightgcn"])
    made.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    made.add_argument("--seeds", type=int, default=4)
    made.add_argument("--epochs", type=int, default=1000, help="at most so many")
    return made


if __name__ == "__main__":
    main("graphhash", measure, options())
