"""Curves of a run for TensorBoard, in the folder ``tensorboard`` of the run: ``tensorboard --logdir runs``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.training.reports import TrainingProgress

EVERY = 10
"""Steps between points. Each is flushed: a run that is killed, or that a loss not finite ends, keeps its curves."""


def curves(
    run_dir: Path, report: Callable[[TrainingProgress], None], *, step: int, on: bool
) -> Callable[[TrainingProgress], None]:
    """A report that writes curves, and then calls the given one.

    Args:
        run_dir: the run's folder.
        report: called with the same progress.
        step: steps taken already; later points, of a run that was killed, are hidden.
        on: False gives ``report`` back.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if not on:
        return report
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "train.tensorboard needs the package tensorboard; install it, or the set recsys[train]"
        ) from None
    writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(progress: TrainingProgress) -> None:
        if progress.validation is not None:
            for name, value in dataclasses.asdict(progress.validation).items():
                if isinstance(value, float):
                    writer.add_scalar(f"validation/{name}", value, progress.step)
        elif progress.step % EVERY == 0 or progress.step == progress.steps:
            points = {
                "train/loss": progress.loss,
                "train/grad_norm": progress.grad_norm,
                "train/samples_per_s": progress.samples_per_s,
                "rate/network": progress.rate,
                "rate/tables": progress.table_rate,
            }
            for name, value in points.items():
                writer.add_scalar(name, value, progress.step)
        writer.flush()
        report(progress)

    return write
