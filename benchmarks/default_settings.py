"""Settings of MF, LightGCN and NGCF that no data set was tuned for, tried on five and checked on a sixth; of two towers
those that are best on Beauty, which has attributes, checked on Toys.

One setting after another, the others as they are best so far, beginning with ``BEGAN_WITH``: those that ``recsys train
MODEL`` had on a log of one's own before these trials. A value is better if its validation recall, at the best epoch,
is higher by the geometric mean over the data sets; where the data has lists of candidates, the figure is the geometric
mean of the recall and the hit rate among them. No test part is looked at. Of each data set a sample of users is
trained on, about ``pairs`` training pairs. At the end the settings found and those that the trials began with are
trained on a data set that was not looked at, with early stopping, and compared on its test part. Times are not
measured. A trial ends after ``patience`` validations without a better recall, also where the recall has not begun to
rise: its figure can be that of a run cut off too early.

With ``--work FOLDER`` trials are kept there: those that are done are not done again, and one that was broken off goes
on from its checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness.common import Line, line, machine, main, parser, rounded, say

from recsys.data.interactions.datasets import load_interaction_set
from recsys.data.interactions.pairs import Interactions, Pairs, load_interactions, make_pairs
from recsys.data.interactions.positives import PairRule
from recsys.errors import ConfigError, nearest
from recsys.recipes import OWN_LOG_RETRIEVAL
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.loop import RetrievalProgress
from recsys.training.retrieval.ranking import RankingMetrics
from recsys.training.retrieval.run import train_any
from recsys.training.settings import override, to_json

MODELS = ("mf", "lightgcn", "ngcf", "two_tower")
DATA = ("gowalla", "movielens_lcfn", "amazon_electronics_m1", "beauty_sequences", "yelp_sequences")
UNSEEN = "toys_sequences"

Setting = Mapping[str, str]

BEGAN_WITH: dict[str, Setting] = {
    "mf": {"train.loss": "softmax", "train.temperature": "0.15", "train.batch_size": "25000"},
    "lightgcn": {},
    "ngcf": {},
    "two_tower": {},
}
"""Of each model, what it then had in place of what its recipe has today."""

ROUNDS: dict[str, tuple[Setting, ...]] = {
    "loss": (
        {"train.loss": "bpr", "train.negatives": "8"},
        {"train.loss": "softmax", "train.temperature": "0.1"},
        {"train.loss": "softmax", "train.temperature": "0.15"},
        {"train.loss": "softmax", "train.temperature": "0.2"},
        {"train.loss": "cosine_contrastive"},
    ),
    "rate": tuple({"train.learning_rate": each} for each in ("0.005", "0.01", "0.02", "0.05")),
    "batch": tuple({"train.batch_size": each} for each in ("4096", "25000", "100000")),
    "regularization": tuple({"train.regularization": each} for each in ("1e-4", "1e-3", "1e-2")),
    "sampled items": tuple({"train.sampled_items": each} for each in ("256", "1024")),
    "dropout": tuple({"model.dropout": each} for each in ("0.1", "0.3", "0.4", "0.5")),
    "temperature": tuple({"train.temperature": each} for each in ("0.07", "0.15", "0.2")),
    "negatives": tuple({"train.sampled_items": each} for each in ("2048",)),
    "id dropout": tuple({"model.id_dropout": each} for each in ("0.2", "0.3", "0.5")),
    "tower rate": tuple({"train.learning_rate": each} for each in ("1e-3", "2e-3")),
    "multi-task": tuple({"model.multi_task_weight": each} for each in ("0.1", "0.3", "1")),
    "width": tuple({"model.dim": each} for each in ("128",)),
    "depth": tuple({"model.layers": each} for each in ("1", "3")),
    "interests": tuple({"model.interests": each} for each in ("2", "4")),
    "hard negatives": tuple({"model.hard_negatives": each} for each in ("16",)),
}
"""Values of each round; those of one key replace another's."""

ROUNDS_OF = {
    **dict.fromkeys(("mf", "lightgcn", "ngcf"), ("loss", "rate", "batch", "regularization", "sampled items")),
    "two_tower": (
        *("dropout", "temperature", "id dropout", "negatives", "tower rate", "multi-task"),
        *("interests", "width", "depth", "hard negatives"),
    ),
}
"""Rounds of each model."""


def values(of: str) -> tuple[Setting, ...]:
    """The values of a round by its name, such as ``batch``, or one of them, such as ``batch:4096``.

    Raises:
        ConfigError: there is no such round, or no such value in it.
    """
    name, _, only = of.partition(":")
    found = tuple(each for each in ROUNDS.get(name, ()) if not only or only in each.values())
    if not found:
        raise ConfigError(f"--rounds: {of!r}: {nearest(name, ROUNDS)}; allowed: a round, or round:value of one")
    return found


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the trials; ``pairs`` 0: all users; ``rounds`` empty: those of the model."""

    pairs: int = 40_000
    epochs: int = 60
    validate_every: int = 2
    patience: int = 3
    data: tuple[str, ...] = DATA
    unseen: str = UNSEEN
    rounds: tuple[str, ...] = ()
    list_length: int = 20
    validation_users: int = 2000


SIZES = {
    "full": Size(),
    "quick": Size(pairs=10_000, epochs=20, data=("amazon_electronics_m1",), rounds=("loss",)),
    "tiny": Size(pairs=2_000, epochs=2, data=("",), unseen="", rounds=("rate",)),
}


def size_of(model: str, size: Size) -> Size:
    """The extent for one model: two towers are tuned on one data set that has attributes, all of it."""
    size = replace(size, rounds=size.rounds or ROUNDS_OF[model])
    if model != "two_tower" or size.data != DATA:
        return size
    return replace(size, pairs=0, epochs=40, data=("beauty_sequences",), list_length=10, validation_users=6000)


def load(name: str, given: Path | None) -> Interactions:
    """A data set by name; without one a generated graph."""
    if not name:
        from graphhash import communities

        return communities(users=200)
    if name == "amazon_electronics_m1":
        return load_interactions((given or Path(os.environ.get("RECSYS_DATA_DIR", "../shared/data"))) / name)
    return load_interaction_set(name, PairRule(), work_dir=Path("runs"), path=given)


def some_users(data: Interactions, pairs: int) -> Interactions:
    """A random sample of users with about so many training pairs, and the items that they took; of 0: all as it is."""
    if not pairs:
        return data
    order = np.random.default_rng(0).permutation(data.num_users)
    taken_N = np.bincount(data.train.user_E, minlength=data.num_users)
    count = int(np.searchsorted(np.cumsum(taken_N[order]), pairs)) + 1
    place_N = np.full(data.num_users, -1)
    place_N[np.sort(order[:count])] = np.arange(min(count, data.num_users))
    items = np.unique(data.train.item_E[place_N[data.train.user_E] >= 0])

    def part(of: Pairs) -> Pairs:
        chosen = of.where((place_N[of.user_E] >= 0) & np.isin(of.item_E, items))
        return make_pairs(place_N[chosen.user_E], np.searchsorted(items, chosen.item_E))

    return Interactions(
        num_users=int(place_N.max()) + 1,
        num_items=len(items),
        train=part(data.train),
        validation=part(data.validation),
        test=part(data.test),
        source=data.source,
    )


class _EnoughError(Exception):
    """Ends a training without its evaluation."""


def figure(validation: RankingMetrics) -> float:
    """By what settings are chosen: recall; or its geometric mean with the hit rate among candidates, if there are."""
    among = validation.hit_rate_at_10
    return validation.recall if among is None else math.sqrt(validation.recall * among)


def best_figure(config: RetrievalRunConfig, data: Interactions, size: Size, work: Path | None) -> tuple[float, int]:
    """Best validation figure of a training, and its epoch.

    ``work``: folder in which the trial is kept, goes on, and is found again; None: it is not kept.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") if work is None else contextlib.nullcontext(work) as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        kept, done = folder / "validations.json", folder / "done"
        found: dict[int, dict[str, float]] = {}
        if kept.exists():
            found = {int(epoch): values for epoch, values in json.loads(kept.read_text()).items()}

        def look(progress: RetrievalProgress) -> None:
            if progress.validation is None:
                return
            values = asdict(progress.validation)
            found[progress.epoch] = {"figure": figure(progress.validation), **values}
            kept.write_text(json.dumps(found))
            best = _best(found)[1]
            if progress.epoch - best >= size.patience * size.validate_every or progress.epoch >= size.epochs:
                raise _EnoughError

        if not done.exists():
            with contextlib.suppress(_EnoughError):
                train_any(config, data, folder / "run", resume=True, report=look)
            done.touch()
        return _best(found)


def _best(found: Mapping[int, Mapping[str, float]]) -> tuple[float, int]:
    return max((values["figure"], epoch) for epoch, values in found.items())


def changed(config: RetrievalRunConfig, setting: Setting) -> RetrievalRunConfig:
    """A configuration with some settings replaced."""
    return override(config, [f"{name}={value}" for name, value in setting.items()])


def choose(
    model: str, data: Mapping[str, Interactions], size: Size, work: Path | None
) -> tuple[Setting, list[dict[str, Any]]]:
    """The settings that are best over the data sets, and all that were tried."""
    base = replace(
        changed(OWN_LOG_RETRIEVAL[model](), {"data.dataset": "gowalla", **BEGAN_WITH[model]}),
        recipe=model,
    )
    base = changed(
        base,
        {
            "train.epochs": str(size.epochs),
            "train.validate_every": str(size.validate_every),
            "train.patience": "0",
            "train.checkpoint_epochs": "1000000" if work is None else "1",
            "train.list_length": str(size.list_length),
            "train.validation_users": str(size.validation_users),
        },
    )
    tried: list[dict[str, Any]] = []

    def recalls(setting: Setting) -> dict[str, tuple[float, int]]:
        for trial in tried:
            if trial["config"] == asdict(changed(base, setting)):
                return dict(trial["recalls"])
        config = changed(base, setting)
        found = {name: best_figure(config, each, size, _folder(work, name, config)) for name, each in data.items()}
        tried.append({"setting": dict(setting), "config": asdict(config), "recalls": found})
        shown = ", ".join(f"{name or 'made'} {recall:.4f} ({epoch})" for name, (recall, epoch) in found.items())
        say(f"{model} {dict(setting)}: {shown}")
        return found

    best: Setting = {}
    began = recalls(best)
    for name in size.rounds:
        for value in values(name):
            candidate = {**best, **value}
            if name == "sampled items" and changed(base, candidate).train.loss == "bpr":
                continue
            found = recalls(candidate)
            if _gain(found, recalls(best)) > 0:
                best = candidate
    for trial in tried:
        del trial["config"]
        trial["gain"] = rounded(math.exp(_gain(trial["recalls"], began)))
        trial["recalls"] = {name: [rounded(recall), epoch] for name, (recall, epoch) in trial["recalls"].items()}
    return best, tried


def _folder(work: Path | None, name: str, config: RetrievalRunConfig) -> Path | None:
    """Folder in which a trial is kept; None: it is not."""
    if work is None:
        return None
    return work / f"{config.recipe}_{name}_{hashlib.sha256(to_json(config).encode()).hexdigest()[:16]}"


def _gain(found: Mapping[str, tuple[float, int]], than: Mapping[str, tuple[float, int]]) -> float:
    """Logarithm of the geometric mean of the ratios of recalls."""
    return float(np.mean([math.log(max(found[name][0], 1e-6) / max(than[name][0], 1e-6)) for name in found]))


def on_test(model: str, setting: Setting, data: Interactions, size: Size) -> dict[str, Any]:
    """Recall@20 and NDCG@20 of a run with early stopping on the test part, beside popularity and ``linear``."""
    config = changed(OWN_LOG_RETRIEVAL[model](), {"data.dataset": "gowalla", **BEGAN_WITH[model], **setting})
    config = changed(config, {"train.epochs": str(min(config.train.epochs, 2 * size.epochs))})
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        result = train_any(config, data, Path(folder) / "run")
    beside = {each.name: rounded(each.values["recall"] or 0.0) for each in result.baselines["test"]}
    return {
        "recall": rounded(result.test.recall),
        "ndcg": rounded(result.test.ndcg),
        "epoch": result.best_epoch,
        "recall_of": beside,
    }


def run(options: argparse.Namespace) -> Iterator[Line]:
    """A line a model."""
    base = SIZES[options.size]
    if options.rounds:
        base = replace(base, rounds=tuple(options.rounds))
    if options.patience:
        base = replace(base, patience=options.patience)
    for model in (options.only,) if options.only else MODELS:
        size = size_of(model, base)
        if options.epochs:
            size = replace(size, epochs=options.epochs)
        for name in size.rounds:
            values(name)
        data = {name: some_users(load(name, options.data), size.pairs) for name in size.data}
        about = {name or "made": [each.num_users, each.num_items, len(each.train)] for name, each in data.items()}
        best, tried = choose(model, data, size, options.work)
        unseen = some_users(load(size.unseen, options.data), size.pairs)
        before, after = (on_test(model, setting, unseen, size) for setting in ({}, best))
        yield line(
            f"default_settings.{model}",
            after["recall"] / before["recall"],
            f"ratio of test recalls@{size.list_length} on {size.unseen or 'a made graph'}",
            higher_is_better=True,
            compared_with="the settings that the trials began with, those of `recsys train` before them",
            began_with=dict(BEGAN_WITH[model]),
            chosen=dict(best),
            unseen={"before": before, "after": after},
            tried=tried,
            users_items_pairs=about,
            on=machine(("torch", "numpy"), **asdict(size)),
        )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "")
    made.add_argument("--only", choices=MODELS, help="try one model; its line replaces the one it had")
    made.add_argument(
        "--rounds", nargs="+", metavar="NAME[:VALUE]", help=f"settings to try: of {', '.join(ROUNDS)}; default: all"
    )
    made.add_argument("--patience", type=int, metavar="N", help="validations without a better recall that end a trial")
    made.add_argument("--epochs", type=int, metavar="N", help="of a trial, at most")
    made.add_argument("--work", type=Path, metavar="FOLDER", help="keep trials there, and go on with those of before")
    return made


if __name__ == "__main__":
    main("default_settings", run, options())
