"""Reports of a run while it trains, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from recsys.embeddings.sharding.plan import PlannedTable
from recsys.evaluation.baselines import Baseline
from recsys.evaluation.evaluate import Metrics
from recsys.features.number_transform import NumberTransform
from recsys.training.trained import TrainedModel
from recsys.training.warm_start.apply import WarmStart

_MIB = 1 << 20


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
    ``baselines`` are by split; ``notes`` are what the run said of its settings.
    """

    trained: TrainedModel
    validation: Metrics | None
    test: Metrics | None
    samples_per_s: float
    best_step: int | None = None
    baselines: Mapping[str, tuple[Baseline, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Callbacks of a run, in the first process.

    Attributes:
        report: of every step and evaluation.
        show_plan: of where tables are, before the first step.
        show_start: of what a warm start took.
        show_numbers: of how numeric features are read, by input name, if there are any.
        show_notes: of settings that will not do what they are for.
    """

    report: Callable[[TrainingProgress], None] = lambda progress: None
    show_plan: Callable[[list[PlannedTable]], None] = lambda plan: None
    show_start: Callable[[WarmStart], None] = lambda start: None
    show_numbers: Callable[[Mapping[str, NumberTransform]], None] = lambda transforms: None
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None


def plan_table(planned: Sequence[PlannedTable]) -> Table:
    """A plan to print."""
    table = Table("table", box=None)
    for heading in ("rows", "width"):
        table.add_column(heading, justify="right")
    for heading in ("sharding", "ranks"):
        table.add_column(heading)
    for heading in ("MiB", "optimizer MiB"):
        table.add_column(heading, justify="right")
    for part in planned:
        cached = " (cached)" if part.kernel == "fused_uvm_caching" else ""
        cells = (part.table, f"{part.num_rows:,}", str(part.dim), part.sharding + cached, _ranges(part.ranks))
        table.add_row(*cells, f"{part.size_bytes / _MIB:,.2f}", f"{part.state_bytes / _MIB:,.2f}")
    return table


def _ranges(ranks: Sequence[int]) -> str:
    """0-3, or 0, 2."""
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))
