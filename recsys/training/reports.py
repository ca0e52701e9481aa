"""Reports of a run while it trains, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recsys.embeddings.sharding.plan import PlannedTable
from recsys.evaluation.evaluate import Metrics
from recsys.training.trained import TrainedModel
from recsys.training.warm_start.apply import WarmStart


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run, for a progress bar and curves.

    Attributes:
        step, steps: taken, and of all epochs; early stopping may end a run before.
        epoch, epochs: of the step, from 0, and of the run; with ``validation`` the epochs that are complete.
        samples_per_s: since this process began to train.
        loss: mean over the samples of the step.
        validation: metrics, if this is the report of an evaluation.
        eta_s: seconds that the remaining steps take, evaluations left out.
        rate, table_rate: learning rates of the step.
        grad_norm: of everything but the tables, before clipping.
    """

    step: int
    steps: int
    epoch: int
    samples_per_s: float
    loss: float
    validation: Metrics | None = None
    epochs: int = 1
    eta_s: float = 0.0
    rate: float = 0.0
    table_rate: float = 0.0
    grad_norm: float = 0.0


@dataclass(frozen=True)
class RunResult:
    """Measurements of a finished run; ``samples_per_s`` is over the training steps of this process.

    The model is in evaluation mode. With ``train.patience`` it has the best weights, those after ``best_step``.
    """

    trained: TrainedModel
    validation: Metrics | None
    test: Metrics | None
    samples_per_s: float
    best_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Callbacks of a run, in the first process.

    Attributes:
        report: of every step and evaluation.
        show_plan: of where tables are, before the first step.
        show_start: of what a warm start took.
    """

    report: Callable[[TrainingProgress], None] = lambda progress: None
    show_plan: Callable[[list[PlannedTable]], None] = lambda plan: None
    show_start: Callable[[WarmStart], None] = lambda start: None
