"""NGCF and LightGCN trained by this package and by RecBole: time to the same validation recall, and time of an epoch.

RecBole trains for a set time, by its own loop, and is asked for its validation recall again and again; the best it
reached is what ours then trains to. Only training counts as time, on both sides. RecBole's epoch on Gowalla takes
minutes: its time is that of a few of its batches, times their number; ours has one negative a pair there, as RecBole's
has. Each side has its own settings: RecBole those of its configuration files with the papers' layers and
regularisation, ours those of our recipes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say
from peers.process import missing, peer

if TYPE_CHECKING:
    from recsys.data.interactions.pairs import Interactions, Pairs
    from recsys.training.retrieval.config import RetrievalRunConfig

TARGET = 3.0
MODELS = {"lightgcn": "LightGCN", "ngcf": "NGCF"}
SETTINGS: dict[str, dict[str, Any]] = {
    "lightgcn": {"n_layers": 3, "reg_weight": 1e-4, "learning_rate": 1e-3, "train_batch_size": 2048},
    "ngcf": {"hidden_size_list": [64, 64, 64], "reg_weight": 1e-5, "learning_rate": 1e-3, "train_batch_size": 2048},
}


@dataclass(frozen=True, kw_only=True)
class Race:
    """One graph: how long RecBole trains, how often it is asked, and how many of its batches are timed."""

    graph: str
    seconds: float
    every_s: float
    batches: int


RACES = {
    "full": (
        Race(graph="gowalla", seconds=300.0, every_s=60.0, batches=10),
        Race(graph="amazon_electronics_m1", seconds=60.0, every_s=1e9, batches=150),
    ),
    "quick": (Race(graph="amazon_electronics_m1", seconds=5.0, every_s=1e9, batches=15),),
    "tiny": (Race(graph="", seconds=0.5, every_s=0.1, batches=2),),
}


def beside_recbole(options: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """All lines; none without RecBole's Python, none of a graph whose files are not there."""
    import torch

    python = options.recbole_python
    if (reason := missing(python, "recbole")) is not None:
        say(reason)
        return
    for race in RACES[options.size]:
        data = _interactions(race, options.data)
        if data is None:
            continue
        on = machine(("torch", "numpy"), data=Path(data.source).name, threads=torch.get_num_threads(), **asdict(race))
        for model in MODELS:
            yield from _race(model, race, data, python, folder / f"{model}_{race.graph or 'made'}", on)


def _interactions(race: Race, given: Path | None) -> Interactions | None:
    from recsys.data.interactions.pairs import load_interactions

    if not race.graph:
        from graphhash import communities

        return communities(users=200)
    place = (given or Path(os.environ.get("RECSYS_DATA_DIR", "../shared/data"))) / race.graph
    if not any((place / f"train.txt{end}").is_file() for end in ("", ".gz")):
        say(f"{race.graph}: skipped; {place} holds no train.txt")
        return None
    return load_interactions(place)


def _race(model: str, race: Race, data: Interactions, python: Path, folder: Path, on: dict[str, Any]) -> Iterator[Line]:
    say(f"{model} on {race.graph or 'a made graph'}: {race.seconds:g} s of RecBole")
    write_for_recbole(data, folder, model=model)
    with peer(python, "recbole_peer.py", folder) as (ask, about):
        timed = ask("batches", count=race.batches)
        epoch_s = timed["seconds"] / race.batches * timed["batches"]
        curve = ask("train", seconds=race.seconds, every=race.every_s)["curve"]
    their_s, recall = max(curve, key=lambda point: (point[1], -point[0]))
    say(f"RecBole: recall {recall:.4f} after {their_s:.1f} s, {epoch_s:.1f} s an epoch; ours to the same")
    ours = train_to(model, data, folder / "run", recall=recall, limit_s=their_s)
    our_epoch_s = epoch_seconds(model, data, folder / "epochs")
    on = {**on, "recbole": about}
    suffix = "" if race.graph in ("gowalla", "") else f".{race.graph}"
    library = f"RecBole {about['recbole']}"
    common: dict[str, Any] = {
        "validation_recall": {"recbole": rounded(recall), "ours": rounded(ours.recall)},
        "seconds": {"recbole": rounded(their_s), "ours": rounded(ours.seconds)},
        "reached": ours.recall >= recall,
    }
    ratio = their_s / ours.seconds
    yield line(
        f"train.{model}_vs_recbole{suffix}",
        # Where ours did not get there, in RecBole's time or in all its epochs, it is no faster.
        ratio if ours.recall >= recall else min(ratio, 1.0),
        "ratio of times to the same validation recall",
        higher_is_better=True,
        target=TARGET,
        compared_with=f"{library}, whose recall after {race.seconds:g} s of training is the goal",
        **common,
        on=on,
    )
    yield line(
        f"train.{model}_epoch_vs_recbole{suffix}",
        epoch_s / our_epoch_s,
        "ratio of times of an epoch",
        higher_is_better=True,
        target=TARGET,
        compared_with=f"{library}; its epoch is {race.batches} batches' time times {timed['batches'] / race.batches:g}",
        seconds={"recbole": rounded(epoch_s), "ours": rounded(our_epoch_s)},
        on=on,
    )


def write_for_recbole(data: Interactions, folder: Path, *, model: str) -> None:
    """``spec.json`` and the atomic files of the three parts."""
    (folder / "bench").mkdir(parents=True)
    for name, part in (("train", data.train), ("valid", data.validation), ("test", data.test)):
        _write(part, folder / "bench" / f"bench.{name}.inter")
    # RecBole's batch of a full ranking is of scores: as it comes, one user at a time.
    settings = {**SETTINGS[model], "seed": 2026, "eval_batch_size": 512 * data.num_items}
    spec = {"model": MODELS[model], "settings": settings}
    (folder / "spec.json").write_text(json.dumps(spec))


def _write(part: Pairs, file: Path) -> None:
    rows = (f"{user}\t{item}\n" for user, item in zip(part.user_E.tolist(), part.item_E.tolist(), strict=True))
    file.write_text("user_id:token\titem_id:token\n" + "".join(rows))


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Seconds that ours trained until ``recall``."""

    seconds: float
    recall: float


class _EnoughError(Exception):
    """Ends the training."""


def train_to(model: str, data: Interactions, folder: Path, *, recall: float, limit_s: float) -> Ours:
    """Train ours by the recipe for Gowalla until its validation recall is as good, or for ``limit_s`` seconds.

    The rate stays constant, so that nothing but the limit ends it. Only training counts, not validation.
    """
    from recsys.training.retrieval.loop import RetrievalProgress, train_retrieval_run

    pairs = len(data.train)
    reached = Ours(seconds=0.0, recall=0.0)

    def after_step(progress: RetrievalProgress) -> None:
        nonlocal reached
        if progress.validation is None:
            return
        best = max(reached.recall, progress.validation.recall)
        reached = Ours(seconds=progress.epoch * pairs / progress.samples_per_s, recall=best)
        if best >= recall or reached.seconds > limit_s:
            raise _EnoughError

    try:
        endless = _config(model, pairs, epochs=100_000, schedule="constant", validate_every=1)
        train_retrieval_run(endless, data, folder, report=after_step)
    except _EnoughError:
        pass
    return reached


def epoch_seconds(model: str, data: Interactions, folder: Path) -> float:
    """Seconds of an epoch of ours with one negative a pair, as RecBole's has; mean of two."""
    from recsys.training.retrieval.loop import train_retrieval_run

    pairs = len(data.train)
    config = _config(model, pairs, negatives=1, epochs=2, validate_every=2)
    return pairs / train_retrieval_run(config, data, folder).pairs_per_s


def _config(model: str, pairs: int, **changes: Any) -> RetrievalRunConfig:
    """The recipe for Gowalla; a graph too small for its batches has eight an epoch."""
    from recsys.recipes import gowalla

    recipes = {"lightgcn": gowalla.lightgcn_gowalla, "ngcf": gowalla.ngcf_gowalla}
    config = recipes[model]()
    settings = dataclasses.replace(
        config.train,
        batch_size=min(config.train.batch_size, -(-pairs // 8)),
        validation_users=0,
        patience=0,
        checkpoint_epochs=1_000_000,
        **changes,
    )
    return dataclasses.replace(config, train=settings)
