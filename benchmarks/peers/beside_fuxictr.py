"""DIN, AutoInt and SDIM trained by this package and by FuxiCTR: rates in turns, one pass's AUC, peak memory.

Both sides have the same data (``fuxictr_data.py``), batch, widths, layers and activations. What differs is theirs:
FuxiCTR trains dense tables with Adam, pads each batch to its longest history, and reads with its own loader in a
process of its own; its SDIM has multi-head target attention as short block, where ours has DIN's unit.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say, spread
from harness.turns import endless, take_turns, training_peak_mib
from peers.process import missing, peer

if TYPE_CHECKING:
    from recsys.data.samples.dataset import Dataset
    from recsys.training.config import RunConfig

LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu", "numpy")
DIM = 16
HEAD = (200, 80)
UNIT = (80, 40)
SIGNATURES, BITS, SHORT = 16, 3, 16
ATTENTION_WIDTH, LAYERS, HEADS = 64, 3, 2


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One model against FuxiCTR's; ``recent`` 0: no history."""

    figure: str
    model: str
    recent: int
    target: float
    share: float = 1.0
    measure_auc: bool = True


CONTESTS = (
    Contest(figure="train.din_vs_fuxictr", model="din", recent=50, target=3.0),
    Contest(figure="train.autoint_vs_fuxictr", model="autoint", recent=0, target=3.0),
    Contest(figure="train.sdim_vs_fuxictr", model="sdim", recent=50, target=3.0),
    # A pass of FuxiCTR's takes half an hour here, so that turns are shorter and no AUC is compared.
    Contest(figure="train.sdim_1000_vs_fuxictr", model="sdim", recent=1000, target=10.0, share=0.25, measure_auc=False),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of the measurement."""

    rounds: int
    steps: int
    batch_size: int = 1024
    passes: int = 0


SIZES = {
    "full": Size(rounds=9, steps=20, passes=1),
    "quick": Size(rounds=2, steps=4),
    "tiny": Size(rounds=1, steps=2, batch_size=128, passes=1),
}


def beside_fuxictr(options: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """All lines; none without FuxiCTR's Python."""
    import torch
    from harness.log_data import load

    python = options.fuxictr_python
    if (reason := missing(python, "fuxictr")) is not None:
        say(reason)
        return
    size = SIZES[options.size]
    loaded = load(options.size, options.data, folder)
    say(f"data: {loaded.raw.source}")
    on = machine(LIBRARIES, data=loaded.raw.source, threads=torch.get_num_threads(), **asdict(size))
    for contest in CONTESTS:
        yield from _contest(contest, size, loaded.dataset, python, folder, on)


def config_of(contest: Contest, *, batch_size: int) -> RunConfig:
    """Our side, as a run that goes on until it is stopped."""
    from recsys.recipes import recipe
    from recsys.training.config import TableConfig
    from recsys.training.settings import override

    config = dataclasses.replace(recipe("din_movielens_1m"), tables=TableConfig(dim=DIM))
    settings = {
        "din": [
            f"model.attention={list(UNIT)}", f"model.head={list(HEAD)}", "model.head_act=dice", "model.dropout=0",
        ],
        "autoint": [
            f"model.attention_width={ATTENTION_WIDTH}", f"model.layers={LAYERS}", f"model.heads={HEADS}",
        ],
        "sdim": [
            f"model.signatures={SIGNATURES}", f"model.bits={BITS}", f"model.short={SHORT}",
            f"model.head={list(HEAD)}", "model.head_act=dice", "model.dropout=0",
        ],
    }  # fmt: skip
    config = override(config, [f"model.kind={contest.model}", *settings[contest.model]])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, recent=max(contest.recent, 1)))
    return endless(config, batch_size=batch_size)


def spec_of(contest: Contest, *, batch_size: int) -> dict[str, Any]:
    """FuxiCTR's side."""
    net: dict[str, dict[str, Any]] = {
        "din": {
            "dnn_hidden_units": HEAD, "dnn_activations": "Dice",
            "attention_hidden_units": UNIT, "attention_hidden_activations": "prelu",
        },
        "autoint": {"attention_width": ATTENTION_WIDTH, "layers": LAYERS, "heads": HEADS, "deep": []},
        "sdim": {
            "dnn_hidden_units": HEAD, "dnn_activations": "Dice", "attention_dim": 2 * DIM, "num_heads": 1,
            "num_hashes": SIGNATURES, "hash_bits": BITS, "l2_norm": True, "reuse_hash": True,
            "short_seq_len": SHORT + 1,  # its own count includes the candidate
        },
    }  # fmt: skip
    return {
        "model": contest.model, "net": net[contest.model], "dim": DIM, "batch_size": batch_size, "seed": 2026,
        "learning_rate": 1e-3, "recent": contest.recent,
    }  # fmt: skip


def _contest(
    contest: Contest, size: Size, whole: Dataset, python: Path, folder: Path, on: dict[str, Any]
) -> Iterator[Line]:
    from harness.workers import worker
    from peers.fuxictr_data import same_for_both, write_for_fuxictr

    from recsys.models.registry import RANKING_MODELS

    name = contest.figure.removeprefix("train.").removesuffix("_vs_fuxictr")
    if contest.model not in RANKING_MODELS:
        say(f"{contest.figure}: skipped; there is no model {contest.model!r}")
        return
    config = config_of(contest, batch_size=size.batch_size)
    dataset = same_for_both(whole, recent=contest.recent)
    place = folder / name
    labels = write_for_fuxictr(dataset, place, spec=spec_of(contest, batch_size=size.batch_size))
    steps, rounds = max(2, round(size.steps * contest.share)), max(1, round(size.rounds * contest.share**0.5))
    on = {**on, "sizes": {**on["sizes"], "rounds": rounds, "steps": steps, "recent_events": contest.recent}}
    say(f"{name}: {rounds} rounds of 2 x {steps} steps")
    training = _only_training(dataset)
    with peer(python, "fuxictr_peer.py", place) as (ask, about):
        on = {**on, "fuxictr": about}
        ours, theirs = take_turns(
            config,
            training,
            place / "run",
            rounds=rounds,
            steps=steps,
            other=lambda n: ask("steps", count=n)["seconds"],
        )
        their_peak_mib = ask("peak")["mib"]
    with worker(peak_worker, config, training, place / "memory") as measure:
        our_peak_mib = measure(steps * rounds)
    details: dict[str, Any] = {
        "samples_per_s": {"ours": rounded(median(ours)), "fuxictr": rounded(median(theirs))},
        "peak_mib": {"ours": rounded(our_peak_mib), "fuxictr": rounded(their_peak_mib)},
    }
    if size.passes and contest.measure_auc:
        details["test_auc_after_one_pass"] = _auc(config, dataset, labels, python, place)
    ratios = [o / t for o, t in zip(ours, theirs, strict=True)]
    yield line(
        contest.figure,
        median(ratios),
        "ratio",
        higher_is_better=True,
        target=contest.target,
        compared_with=f"FuxiCTR {about['fuxictr']}: the same data, batch, widths and layers, its own loader and Adam",
        spread=spread(ratios),
        **details,
        on=on,
    )


def _only_training(dataset: Dataset) -> Dataset:
    import numpy as np

    none = np.empty(0, dtype=np.int64)
    splits = {"train": dataset.samples.splits["train"], "validation": none, "test": none}
    return dataclasses.replace(dataset, samples=dataclasses.replace(dataset.samples, splits=splits))


def _auc(config: RunConfig, dataset: Dataset, labels: Any, python: Path, place: Path) -> dict[str, float]:
    """Test AUC of both after one pass over the training samples."""
    import numpy as np

    from recsys.metrics import auc
    from recsys.training.loop import train

    say("one pass of each")
    once = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    test = train(once, dataset, place / "pass").test
    assert test is not None
    with peer(python, "fuxictr_peer.py", place) as (ask, _):
        ask("epoch")
        ask("predict")
    return {"ours": rounded(test.auc), "fuxictr": rounded(auc(labels, np.load(place / "probability.npy")))}


def peak_worker(config: RunConfig, dataset: Dataset, run_dir: Path) -> Any:
    """A function that trains so many steps and tells the peak, in MiB; in a process of its own."""
    return lambda steps: training_peak_mib(config, dataset, run_dir, steps=int(steps))
