"""Learning rates over a run: one factor for all rates of a step."""

from __future__ import annotations

import math

from recsys.training.config import TrainConfig


def rate_factor(config: TrainConfig, *, step: int, steps: int, epoch: int = 0, reductions: int = 0) -> float:
    """The factor of the network's rate and the tables' in a step: a warm-up from zero to one, then ``schedule``.

    Args:
        config: its ``schedule``, ``warmup_steps``, ``decay`` and ``decay_epochs``.
        step: steps taken before.
        steps: of the whole run, ``train.epochs`` epochs, also where early stopping may end it before.
        epoch: of the step, from 0.
        reductions: evaluations so far that did not improve, for ``plateau``.
    """
    warmup = warmup_of(config, steps=steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "plateau":
        return config.decay**reductions
    done = (step - warmup) / max(1, steps - warmup)
    return decayed(config.schedule, done=done, epoch=epoch, decay=config.decay, decay_epochs=config.decay_epochs)


def warmup_of(config: TrainConfig, *, steps: int) -> int:
    """Steps of the warm-up in a run of so many: ``warmup_steps``, at most a third of the run.

    A warm-up as long as the run would end it before the rates are what they were set to, and nothing would be learnt.

    >>> warmup_of(TrainConfig(warmup_steps=100), steps=40), warmup_of(TrainConfig(warmup_steps=100), steps=780)
    (13, 100)
    """
    return min(config.warmup_steps, steps // 3)


def decayed(schedule: str, *, done: float, epoch: int, decay: float, decay_epochs: int) -> float:
    """The factor of a schedule by name.

    Args:
        schedule: ``cosine`` or ``linear``, to zero at the end; ``step``; else constant.
        done: share of the steps that are taken, after the warm-up.
        epoch: from 0.
        decay, decay_epochs: of ``step``: multiply with the one every so many epochs.

    >>> decayed("step", done=0.2, epoch=20, decay=0.5, decay_epochs=10)
    0.25
    """
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1.0 - done
    if schedule == "step":
        return float(decay ** (epoch // decay_epochs))
    return 1.0
