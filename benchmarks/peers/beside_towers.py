"""``two_tower`` trained beside RecBole's SASRec and torch-rechub's YoutubeDNN: samples/s with the same data and batch.

A sample is a target with the items before it. Ours is the loop itself: one pass over a window answers for all targets
in it, and compares each with the others' targets and 512 items. RecBole makes a padded row of each target and compares
it with all items. torch-rechub makes the same row, takes its mean in place of attention, and compares with three items
drawn beforehand: less work than either of the others. All have width 64 and read 50 events; SASRec's and our attention
have two layers of two heads. Each side's turn is so many batches; the figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.common import Line, line, machine, rounded, say, spread
from harness.turns import EnoughError
from peers.process import Ask, missing, peer

if TYPE_CHECKING:
    from recsys.arrays import Int64Array
    from recsys.data.interactions.pairs import Interactions
    from recsys.training.retrieval.config import RetrievalRunConfig

TARGET, EVENTS, WIDTH = 3.0, 50, 64
SASREC: dict[str, Any] = {
    "hidden_size": WIDTH,
    "inner_size": 2 * WIDTH,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "hidden_act": "relu",
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "MAX_ITEM_LIST_LENGTH": EVENTS,
    "benchmark_filename": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent; without ``dataset`` made sequences."""

    dataset: str
    rounds: int
    batches: int
    batch_size: int = 1024


SIZES = {
    "full": Size(dataset="beauty_sequences", rounds=5, batches=4),
    "quick": Size(dataset="beauty_sequences", rounds=2, batches=3),
    "tiny": Size(dataset="", rounds=1, batches=2, batch_size=64),
}


def beside_towers(options: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """A line for each package whose Python is there."""
    import torch

    given = {"recbole": options.recbole_python, "rechub": options.rechub_python}
    reasons = {name: missing(python, name, module=_MODULES[name]) for name, python in given.items()}
    for reason in reasons.values():
        if reason is not None:
            say(reason)
    if all(reasons.values()):
        return
    size = SIZES[options.size]
    data = _data(size, options.data, folder)
    user_E, item_E = sequences_of(data)
    on = machine(("torch", "numpy"), data=data.source, threads=torch.get_num_threads(), **asdict(size))
    scripts = {"recbole": "recbole_peer.py", "rechub": "rechub_peer.py"}
    for name in (name for name, reason in reasons.items() if reason is None):
        own = folder / name
        write = {"recbole": write_for_recbole, "rechub": write_for_rechub}[name]
        write(user_E, item_E, own, batch_size=size.batch_size)
        say(f"two_tower beside {name}: {size.rounds} rounds of {size.batches} batches each")
        with peer(given[name], scripts[name], own) as (ask, about):
            ours, theirs = _turns(size, data, folder / f"run_{name}", ask)
        yield line(
            f"train.two_tower_vs_{name}",
            median(mine / other for mine, other in zip(ours, theirs, strict=True)),
            "ratio of samples/s",
            higher_is_better=True,
            target=TARGET,
            compared_with=f"{_MODELS[name]} of {about[name]}",
            samples_per_s={"ours": rounded(median(ours)), name: rounded(median(theirs))},
            spread=spread([mine / other for mine, other in zip(ours, theirs, strict=True)]),
            on={**on, name: about},
        )


_MODULES = {"recbole": "recbole", "rechub": "torch_rechub"}
_MODELS = {"recbole": "SASRec (cross entropy over all items)", "rechub": "YoutubeDNN (a mean of the history)"}


def _data(size: Size, path: Path | None, folder: Path) -> Interactions:
    from recsys.data.interactions.datasets import load_interaction_set
    from recsys.data.interactions.positives import PairRule

    if not size.dataset:
        from graphhash import communities

        return communities(users=200)
    return load_interaction_set(size.dataset, PairRule(), work_dir=folder / "work", path=path)


def sequences_of(data: Interactions) -> tuple[Int64Array, Int64Array]:
    """Users and items of all events, a user's in order, the last two those of validation and test."""
    known = data.histories.get("validation")
    parts = [data.train if known is None else known, data.validation, data.test]
    user_E = np.concatenate([part.user_E for part in parts])
    item_E = np.concatenate([part.item_E for part in parts])
    order = np.argsort(user_E, kind="stable")
    return user_E[order], item_E[order]


def write_for_recbole(user_E: Int64Array, item_E: Int64Array, folder: Path, *, batch_size: int) -> None:
    """``spec.json`` and the atomic file, whose times are places; RecBole splits the last two off itself."""
    (folder / "bench").mkdir(parents=True)
    rows = zip(user_E.tolist(), item_E.tolist(), range(len(user_E)), strict=True)
    text = "".join(f"{user}\t{item}\t{place}\n" for user, item, place in rows)
    (folder / "bench" / "bench.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + text)
    settings = {**SASREC, "seed": 2026, "train_batch_size": batch_size}
    (folder / "spec.json").write_text(json.dumps({"model": "SASRec", "settings": settings}))


def write_for_rechub(user_E: Int64Array, item_E: Int64Array, folder: Path, *, batch_size: int) -> None:
    """``spec.json`` and ``samples.npz``: the items before each target, numbered from 1, padded in front with 0."""
    folder.mkdir(parents=True)
    first_E = np.searchsorted(user_E, user_E)
    end_E = np.searchsorted(user_E, user_E, side="right")
    place_E = np.arange(len(user_E))
    last_T = np.flatnonzero((place_E > first_E) & (place_E < end_E - 2))
    before_TL = last_T[:, None] - np.arange(EVENTS, 0, -1)
    history_TL = np.where(before_TL >= first_E[last_T][:, None], item_E[before_TL.clip(0)] + 1, 0)
    np.savez(folder / "samples.npz", user=user_E[last_T], history=history_TL, item=item_E[last_T] + 1)
    spec = {"batch_size": batch_size, "width": WIDTH, "users": int(user_E.max()) + 1, "items": int(item_E.max()) + 2}
    (folder / "spec.json").write_text(json.dumps(spec))


def _turns(size: Size, data: Interactions, run_dir: Path, ask: Ask) -> tuple[list[float], list[float]]:
    """Samples/s of ours and theirs, one of each a round."""
    from recsys.training.retrieval.loop import RetrievalProgress
    from recsys.training.retrieval.run import train_any

    ours, theirs = list[float](), list[float]()
    step, begun_s, samples = -2, 0.0, 0.0  # the first steps warm up

    def theirs_per_s() -> float:
        return size.batch_size * size.batches / float(ask("batches", count=size.batches)["seconds"])

    def after_step(progress: RetrievalProgress) -> None:
        nonlocal step, begun_s, samples
        step += 1
        if step == size.batches:
            ours.append(size.batches * size.batch_size / (time.perf_counter() - begun_s))
            theirs.append(theirs_per_s())
            say(f"round {len(ours)}: {ours[-1]:,.0f} and {theirs[-1]:,.0f} samples/s")
            if len(ours) == size.rounds:
                raise EnoughError
            step = 0
        if step == 0:
            begun_s = time.perf_counter()

    theirs_per_s()
    try:
        train_any(_config(size), data, run_dir, report=after_step)
    except EnoughError:
        pass
    return ours, theirs


def _config(size: Size) -> RetrievalRunConfig:
    """The recipe, which nothing but the caller ends."""
    from recsys.recipes import own_log

    config = own_log.two_tower()
    train = dataclasses.replace(
        config.train,
        batch_size=size.batch_size,
        epochs=1_000_000,
        patience=0,
        validate_every=1_000_000,
        checkpoint_epochs=1_000_000,
    )
    return dataclasses.replace(config, train=train)
