"""Recall and time under filters on vectors of trained models, of our index beside faiss's and hnswlib's.

LightGCN on Gowalla and ``two_tower`` on Beauty's sequences: vectors of test users and of all items. Trainings are kept
in ``--work``, and not done again; one of other settings is refused. Every index gets as much effort as recall .95 takes
under each filter, or the most there is; beside it the recall with the effort that it takes without one.

And the recall that codes of 1 bit keep (``retrieving/bits.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from harness.common import Line, cores, line, machine, main, parser, pinned, say
from harness.workers import worker
from retrieving.bits import kept_line

LIBRARIES = ("onnxruntime", "numpy", "torch")
USERS = {"full": 300, "quick": 60, "tiny": 20}


@dataclass(frozen=True, kw_only=True)
class Set:
    """A model and its data: recipe and settings, and those of a rougher run on made pairs or sequences."""

    recipe: str
    settings: Sequence[str]
    rough: Sequence[str]


SETS = {
    "lightgcn_gowalla": Set(
        recipe="lightgcn_gowalla",
        settings=("train.seed=2026",),
        rough=("data.dataset=synthetic", "train.epochs=3", "train.list_length=5", "train.validation_users=50"),
    ),
    "two_tower_beauty": Set(
        recipe="two_tower",
        settings=(
            "data.dataset=beauty_sequences",
            "train.list_length=10",
            "train.validation_users=3000",
            "train.seed=2026",
        ),
        rough=("data.dataset=beauty_sequences", "train.epochs=2", "train.batch_size=128"),
    ),
}


def vectors(name: str, size: str, data: Path | None, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of some test users, and of all items, of a training that is done unless it is there.

    Raises:
        ConfigError: the run that is there has other settings.
    """
    import torch
    from retrieving.cold import made_sequences

    from recsys.data.interactions.datasets import load_interaction_set
    from recsys.errors import ConfigError
    from recsys.models.registry import SEQUENCE_MODELS
    from recsys.recipes import OWN_LOG_RETRIEVAL, RETRIEVAL_RECIPES
    from recsys.training.retrieval.folder import read_retrieval_config
    from recsys.training.retrieval.run import train_any
    from recsys.training.retrieval.trained import load_trained
    from recsys.training.retrieval.two_tower.trained import load_two_tower
    from recsys.training.settings import differences, override

    of, folder = SETS[name], work / name
    recipes = {**RETRIEVAL_RECIPES, **OWN_LOG_RETRIEVAL}
    config = override(recipes[of.recipe](), of.settings if size == "full" else of.rough)
    by_history = config.model.kind in SEQUENCE_MODELS
    if by_history and size != "full":
        pairs = made_sequences()
    else:
        pairs = load_interaction_set(config.data.dataset, config.data, work_dir=Path("runs"), path=data)
    if (folder / "config.json").exists() and (differ := differences(read_retrieval_config(folder), config)):
        raise ConfigError(f"{folder} holds another training: {differ}; allowed: another --work, or remove the folder")
    if not (folder / "metrics.json").exists():
        say(f"training {name}")
        train_any(config, pairs, folder, resume=folder.exists())
    users = np.unique(pairs.test.user_E)
    users = np.sort(np.random.default_rng(0).permutation(users)[: USERS[size]])
    if by_history:
        _, learner = load_two_tower(folder, pairs)
        items = learner.item_rows()
        interests, known = learner.interests(items, users, test=True)
        assert interests.shape[1] == 1, "several interests are no one vector"
        found = interests[:, 0][known]
    else:
        _, trainer, _ = load_trained(folder, pairs)
        all_users, items = trainer.vectors()
        found = all_users[torch.from_numpy(users)]
    return tuple(np.ascontiguousarray(each.detach().numpy(), dtype=np.float32) for each in (found, items))  # type: ignore[return-value]


def comparison(users: np.ndarray, items: np.ndarray) -> Callable[[float], tuple[dict[str, Any], float]]:
    """Searches of every index by filter; the items' effective dimension."""
    from index import one_search
    from retrieving.peers import compared

    from recsys.export.retrieval.index import effective_dimension

    def measure(_: float) -> tuple[dict[str, Any], float]:
        ours = one_search(items)
        return compared(items, users, lambda rows, _: ours(rows), say=say), effective_dimension(items)

    return measure


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    from retrieving.peers import WANTED, facts

    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        work = options.work if options.size == "full" else Path(name)
        for vectors_of in SETS:
            users, items = vectors(vectors_of, options.size, options.data, work)
            on = machine((*LIBRARIES, *_installed()), users=len(users), items=len(items), dim=items.shape[1], k=100)
            say(f"searching {len(items):,} items of {vectors_of}")
            with pinned(cores()[0]), worker(comparison, users, items) as measure:
                by_index, dimension = measure(1)
            with pinned(cores()[0]):
                yield kept_line(vectors_of, users, items, on)
            peers = [each for each in by_index if each != "ours"]
            if not peers:
                say("neither faiss nor hnswlib is installed: their lines are left out")
            for filtered, ours in by_index["ours"].items():
                yield line(
                    f"index.recall_vs_hnsw_at_filters.{vectors_of}.{filtered}",
                    ours.recall,
                    "recall",
                    higher_is_better=True,
                    compared_with=f"{', '.join(peers) or 'no other index'}, effort for recall {WANTED}",
                    on=on,
                    target=1.0,
                    ms=round(ours.ms, 4),
                    effective_dimension=round(dimension, 1),
                    peers=facts({each: by_index[each][filtered] for each in peers}),
                )


def _installed() -> list[str]:
    """The others' packages that are there."""
    found = []
    for package in ("faiss-cpu", "hnswlib"):
        with contextlib.suppress(PackageNotFoundError):
            version(package)
            found.append(package)
    return found


def options() -> argparse.ArgumentParser:
    """The options of every benchmark, and the folder of the trainings."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--work", type=Path, default=Path("runs/real_vectors"), help="where trainings of a full run are kept"
    )
    return made


if __name__ == "__main__":
    main("real_vectors", run, options())
