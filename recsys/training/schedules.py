"""Learning rates over a run: one factor for the network's rate and the tables'."""

from __future__ import annotations

import math

from recsys.training.config import TrainConfig


def rate_factor(config: TrainConfig, *, step: int, steps: int, epoch: int = 0, reductions: int = 0) -> float:
    """What both rates are multiplied with in a step. First it rises linearly from zero to one, then ``schedule`` says.

    Args:
        config: its ``schedule``, ``warmup_steps``, ``decay`` and ``decay_epochs``.
        step: steps taken before.
        steps: of the whole run, ``train.epochs`` epochs, also where early stopping may end it before.
        epoch: of the step, from 0.
        reductions: evaluations so far that did not improve, for ``plateau``.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if config.schedule == "linear":
        return 1.0 - done
    if config.schedule == "step":
        return config.decay ** (epoch // config.decay_epochs)
    if config.schedule == "plateau":
        return config.decay**reductions
    return 1.0
