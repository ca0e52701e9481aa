"""Settings of MF, LightGCN and NGCF that no data set was tuned for: tried on five, checked on a sixth.

One setting after another, the others as they are best so far, beginning with ``BEGAN_WITH``: those that ``recsys train
MODEL`` had on a log of one's own before these trials. A value is better if its validation recall@20, at the best epoch,
is higher by the geometric mean over the data sets; no test part is looked at. Of each data set a sample of users is
trained on, about ``pairs`` training pairs. At the end the settings found and those that the trials began with are
trained on a data set that was not looked at, with early stopping, and compared on its test part. Times are not
measured. A trial ends after ``patience`` validations without a better recall, also where the recall has not begun to
rise: its figure can be that of a run cut off too early.
"""

from __future__ import annotations

import argparse
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
from recsys.training.retrieval.loop import RetrievalProgress, train_retrieval_run
from recsys.training.settings import override

MODELS = ("mf", "lightgcn", "ngcf")
DATA = ("gowalla", "movielens_lcfn", "amazon_electronics_m1", "beauty_sequences", "yelp_sequences")
UNSEEN = "toys_sequences"

Setting = Mapping[str, str]

BEGAN_WITH: dict[str, Setting] = {
    "mf": {"train.loss": "softmax", "train.temperature": "0.15", "train.batch_size": "25000"},
    "lightgcn": {},
    "ngcf": {},
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
}
"""Values of each round; those of one key replace another's."""


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
    """Extent of the trials."""

    pairs: int = 40_000
    epochs: int = 60
    validate_every: int = 2
    patience: int = 3
    data: tuple[str, ...] = DATA
    unseen: str = UNSEEN
    rounds: tuple[str, ...] = tuple(ROUNDS)


SIZES = {
    "full": Size(),
    "quick": Size(pairs=10_000, epochs=20, data=("amazon_electronics_m1",), rounds=("loss",)),
    "tiny": Size(pairs=2_000, epochs=2, data=("",), unseen="", rounds=("rate",)),
}


def load(name: str, given: Path | None) -> Interactions:
    """A data set by name; without one a generated graph."""
    if not name:
        from graphhash import communities

        return communities(users=200)
    if name == "amazon_electronics_m1":
        return load_interactions((given or Path(os.environ.get("RECSYS_DATA_DIR", "../shared/data"))) / name)
    return load_interaction_set(name, PairRule(), work_dir=Path("runs"), path=given)


def some_users(data: Interactions, pairs: int) -> Interactions:
    """A random sample of users with about so many training pairs, and the items that they took."""
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


def best_recall(config: RetrievalRunConfig, data: Interactions, size: Size) -> tuple[float, int]:
    """Best validation recall of a training, and its epoch."""
    found: list[tuple[float, int]] = []

    def look(progress: RetrievalProgress) -> None:
        if progress.validation is None:
            return
        found.append((progress.validation.recall, progress.epoch))
        best = max(found)[1]
        if progress.epoch - best >= size.patience * size.validate_every or progress.epoch >= size.epochs:
            raise _EnoughError

    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        try:
            train_retrieval_run(config, data, Path(folder) / "run", report=look)
        except _EnoughError:
            pass
    return max(found, key=lambda each: each[0])


def changed(config: RetrievalRunConfig, setting: Setting) -> RetrievalRunConfig:
    """A configuration with some settings replaced."""
    return override(config, [f"{name}={value}" for name, value in setting.items()])


def choose(model: str, data: Mapping[str, Interactions], size: Size) -> tuple[Setting, list[dict[str, Any]]]:
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
            "train.checkpoint_epochs": "1000000",
            "train.list_length": "20",
            "train.validation_users": "2000",
        },
    )
    tried: list[dict[str, Any]] = []

    def recalls(setting: Setting) -> dict[str, tuple[float, int]]:
        for trial in tried:
            if trial["config"] == asdict(changed(base, setting)):
                return dict(trial["recalls"])
        config = changed(base, setting)
        found = {name: best_recall(config, each, size) for name, each in data.items()}
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


def _gain(found: Mapping[str, tuple[float, int]], than: Mapping[str, tuple[float, int]]) -> float:
    """Logarithm of the geometric mean of the ratios of recalls."""
    return float(np.mean([math.log(max(found[name][0], 1e-6) / max(than[name][0], 1e-6)) for name in found]))


def on_test(model: str, setting: Setting, data: Interactions, size: Size) -> dict[str, Any]:
    """Recall@20 and NDCG@20 of a run with early stopping on the test part, beside popularity and ``linear``."""
    config = changed(OWN_LOG_RETRIEVAL[model](), {"data.dataset": "gowalla", **BEGAN_WITH[model], **setting})
    config = changed(config, {"train.epochs": str(min(config.train.epochs, 2 * size.epochs))})
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        result = train_retrieval_run(config, data, Path(folder) / "run")
    beside = {each.name: rounded(each.values["recall"] or 0.0) for each in result.baselines["test"]}
    return {
        "recall": rounded(result.test.recall),
        "ndcg": rounded(result.test.ndcg),
        "epoch": result.best_epoch,
        "recall_of": beside,
    }


def run(options: argparse.Namespace) -> Iterator[Line]:
    """A line a model."""
    size = SIZES[options.size]
    if options.rounds:
        size = replace(size, rounds=tuple(options.rounds))
    if options.patience:
        size = replace(size, patience=options.patience)
    for name in size.rounds:
        values(name)
    data = {name: some_users(load(name, options.data), size.pairs) for name in size.data}
    on = machine(("torch", "numpy"), **asdict(size))
    about = {name or "made": [each.num_users, each.num_items, len(each.train)] for name, each in data.items()}
    for model in (options.only,) if options.only else MODELS:
        best, tried = choose(model, data, size)
        unseen = some_users(load(size.unseen, options.data), size.pairs)
        before, after = (on_test(model, setting, unseen, size) for setting in ({}, best))
        yield line(
            f"default_settings.{model}",
            after["recall"] / before["recall"],
            f"ratio of test recalls@20 on {size.unseen or 'a made graph'}",
            higher_is_better=True,
            compared_with="the settings that the trials began with, those of `recsys train` before them",
            began_with=dict(BEGAN_WITH[model]),
            chosen=dict(best),
            unseen={"before": before, "after": after},
            tried=tried,
            users_items_pairs=about,
            on=on,
        )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "")
    made.add_argument("--only", choices=MODELS, help="try one model; its line replaces the one it had")
    made.add_argument(
        "--rounds", nargs="+", metavar="NAME[:VALUE]", help=f"settings to try: of {', '.join(ROUNDS)}; default: all"
    )
    made.add_argument("--patience", type=int, metavar="N", help="validations without a better recall that end a trial")
    return made


if __name__ == "__main__":
    main("default_settings", run, options())
