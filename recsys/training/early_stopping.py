"""Decisions of evaluations on the validation split: the best weights, when to stop, when to lower the rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.errors import ConfigError
from recsys.evaluation.evaluate import Metrics
from recsys.metrics import LOWER_IS_BETTER
from recsys.training.config import MonitorName, TrainConfig


@dataclass
class EarlyStopping:
    """The evaluations of a run so far. It is part of a checkpoint: a resumed run stops where it would have.

    Attributes:
        best: the monitored metric of the best evaluation; None before the first.
        best_step: after how many steps that was.
        waited: evaluations since it.
        reductions: evaluations that were no improvement, of the whole run.
    """

    best: float | None = None
    best_step: int = 0
    waited: int = 0
    reductions: int = 0

    def update(self, metrics: Metrics, config: TrainConfig, *, step: int) -> bool:
        """Count an evaluation; true if it is the best so far, by more than ``min_delta``.

        Raises:
            ConfigError: the monitored metric has no value.
        """
        value = monitored(metrics, config.monitor)
        gain = 0.0 if self.best is None else value - self.best
        if config.monitor in LOWER_IS_BETTER:
            gain = -gain
        if self.best is None or gain > config.min_delta:
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        self.reductions += 1
        return False

    def should_stop(self, config: TrainConfig) -> bool:
        """True once ``patience`` evaluations in a row were no improvement."""
        return 0 < config.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EarlyStopping:
        """Inverse of :meth:`state_dict`; empty: nothing was evaluated."""
        return cls(**state)


def monitored(metrics: Metrics, name: MonitorName) -> float:
    """The value of the metric that decides.

    Raises:
        ConfigError: it has none on this split.
    """
    value: float | None = getattr(metrics, name)
    if value is None:
        raise no_value(name)
    return value


def no_value(name: MonitorName) -> ConfigError:
    """The error of a metric that has no value on the validation split."""
    return ConfigError(
        f"train.monitor is {name!r}, which has no value on this validation split: no user of it has both labels; "
        "choose auc or log_loss"
    )


def is_evaluated(config: TrainConfig, *, step: int, steps: int, steps_per_epoch: int) -> bool:
    """True if the validation split is evaluated after so many steps: every ``evaluate_every``, or every epoch."""
    return step == steps or step % (config.evaluate_every or steps_per_epoch) == 0


def needs_validation(config: TrainConfig) -> str | None:
    """The setting that cannot do without a validation split; None: there is none."""
    if config.patience:
        return f"train.patience {config.patience}"
    return "train.schedule plateau" if config.schedule == "plateau" else None
