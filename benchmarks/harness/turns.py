"""The training loop as it is, in turns with something else in the same run; and what a process's memory came to."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common import say

if TYPE_CHECKING:
    from recsys.data.samples.dataset import Dataset
    from recsys.training.config import RunConfig
    from recsys.training.reports import TrainingProgress

PREFETCHED = 4
"""Steps of a turn that are not timed: their batches were built ahead, during the other's turn."""


class EnoughError(Exception):
    """Ends the training loop."""


def endless(config: RunConfig, *, batch_size: int) -> RunConfig:
    """A run that only the caller ends, without checkpoints and regularisation."""
    return dataclasses.replace(
        config,
        tables=dataclasses.replace(config.tables, regularization=0.0),
        train=dataclasses.replace(
            config.train, batch_size=batch_size, epochs=1_000_000, checkpoint_steps=1_000_000_000
        ),
    )


def take_turns(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    *,
    rounds: int,
    steps: int,
    other: Callable[[int], float],
) -> tuple[list[float], list[float]]:
    """Samples/s of the loop and of the other side, one of each a round.

    Args:
        config: from :func:`endless`.
        dataset: with keys; only its training split is read.
        run_dir: of the loop.
        rounds: how many.
        steps: of a turn of either side.
        other: trains so many steps on batches of the same size, and says in how many seconds.
    """
    from recsys.training.loop import train

    samples = steps * config.train.batch_size
    ours: list[float] = []
    others: list[float] = []
    turn, begun_s = -2 * PREFETCHED, 0.0  # the first turn also warms up

    def after_step(progress: TrainingProgress) -> None:
        nonlocal turn, begun_s
        turn += 1
        if turn == PREFETCHED:
            begun_s = time.perf_counter()
        if turn < PREFETCHED + steps:
            return
        ours.append(samples / (time.perf_counter() - begun_s))
        other(PREFETCHED)
        others.append(samples / other(steps))
        say(f"round {len(ours)}: {ours[-1]:,.0f} and {others[-1]:,.0f} samples/s")
        turn = 0
        if len(ours) == rounds:
            raise EnoughError

    try:
        train(config, dataset, run_dir, report=after_step)
    except EnoughError:
        pass
    return ours, others


def training_peak_mib(config: RunConfig, dataset: Dataset, run_dir: Path, *, steps: int) -> float:
    """Memory that so many steps of the loop add to this process, resident, at their peak."""
    from recsys.training.loop import train

    def after_step(progress: TrainingProgress) -> None:
        if progress.step >= steps:
            raise EnoughError

    before_mib = reset_peak_mib()
    try:
        train(config, dataset, run_dir, report=after_step)
    except EnoughError:
        pass
    return peak_mib() - before_mib


def reset_peak_mib() -> float:
    """Forget the peak so far; what is resident now, in MiB (proc(5): 5 to clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """Peak of resident memory since :func:`reset_peak_mib`."""
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(float(row.split()[1]) / 1024 for row in rows if row.startswith(f"{name}:"))
