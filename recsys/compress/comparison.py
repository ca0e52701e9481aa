"""A comparison of row maps: its settings, what each run measured, and the choice among them.

The configuration to take is chosen by the validation split alone; the test split is reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.embeddings.quantize import Kind
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.errors import ConfigError, nearest
from recsys.training.config import MapName

LEAST_TOLERANCE = 0.001


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """Settings of a comparison.

    Attributes:
        maps: row maps beside the full vocabulary.
        budgets: of each map, as ``rows.budget``.
        seeds: runs of each configuration; they differ in ``train.seed`` and ``rows.seed``.
        quantize: in what form tables are counted when a configuration is chosen; all are trained in float32.
        tolerance: of the validation metric, what the choice may lose against the full model; None: one standard error
            of the full model's mean, and 0.001 at least.
    """

    maps: tuple[MapName, ...]
    budgets: tuple[float, ...]
    seeds: int = 3
    quantize: Kind = "none"
    tolerance: float | None = None

    def __post_init__(self) -> None:
        known = [name for name in ROW_MAPS if name != "vocabulary"]
        for name in self.maps:
            if name not in known:
                raise ConfigError(f"map {name!r}: {nearest(name, known)}; the full vocabulary is always compared")
        for what, values in (("maps", self.maps), ("budgets", self.budgets)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{what} are {list(values)}; allowed: one or more, each once")
        for budget in self.budgets:
            if not 0 < budget < math.inf:
                raise ConfigError(f"budget {budget}; allowed: above 0, for example 0.25 for a quarter of the rows")
        if self.seeds < 1:
            raise ConfigError(f"{self.seeds} seeds; allowed: 1 or more")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ConfigError(f"tolerance {self.tolerance}; allowed: 0 or more")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The metrics of a kind of run that a comparison chooses by and shows; more is better of the first.

    Attributes:
        metric, label: that chooses, by its name and for people.
        others: split, name and label of those beside it.
        notes: a sentence each on what to know of the figures.
    """

    metric: str
    label: str
    others: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A configuration: a map at a budget, or the full vocabulary, which has none."""

    map: MapName
    budget: float | None

    def __str__(self) -> str:
        return "full vocabulary" if self.budget is None else f"{self.map}, budget {self.budget:g}"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measurements of one run.

    Attributes:
        run: name of its folder in ``runs``.
        validation, test: metrics by name; ``test`` is None if that split is empty.
        table_bytes: of the embedding tables, by the form they are stored in.
        map_bytes: of the row maps.
        train_s: of all training steps, by their rate, without evaluation; None if it went on after the last one.
        baselines: split -> what ``baselines_json`` says of popularity and chance; none of a run of an older version.
    """

    run: str
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None] | None
    table_bytes: Mapping[Kind, int]
    map_bytes: int
    train_s: float | None
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def value(self, split: str, metric: str) -> float | None:
        """A metric of a split; None without."""
        values = self.validation if split == "validation" else self.test
        return None if values is None else values.get(metric)


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """A mean, and the sample standard deviation, which one value does not have."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration with its runs, one per seed; or why it cannot be."""

    choice: Choice
    runs: tuple[Measurement, ...] = ()
    impossible: str | None = None

    def mean_std(self, value: Callable[[Measurement], float | None]) -> MeanStd | None:
        """Over the runs; None if a run does not have the value."""
        values = [value(run) for run in self.runs]
        return mean_std([v for v in values if v is not None]) if values and None not in values else None

    def of(self, split: str, metric: str) -> MeanStd | None:
        """A metric over the runs; None if a run does not have it."""
        return self.mean_std(lambda run: run.value(split, metric))

    def validated(self, metric: str) -> float:
        """Mean of a metric on the validation split."""
        found = self.of("validation", metric)
        assert found is not None, "a run is chosen by a metric that it has"
        return found.mean

    def table_bytes(self, kind: Kind) -> int:
        """Mean over the runs: clusters of another seed may be more or fewer."""
        return round(statistics.fmean(run.table_bytes[kind] for run in self.runs))

    @property
    def map_bytes(self) -> int:
        """Mean over the runs."""
        return round(statistics.fmean(run.map_bytes for run in self.runs))

    def size_bytes(self, kind: Kind) -> int:
        """Of tables and maps."""
        return self.table_bytes(kind) + self.map_bytes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of a comparison: the full vocabulary's row first."""

    recipe: str
    settings: CompressConfig
    fingerprint: str
    shown: Shown
    tolerance: float
    rows: tuple[Row, ...]
    recommended: Row

    @property
    def full(self) -> Row:
        """The row that the others are compared with."""
        return self.rows[0]

    @property
    def possible(self) -> list[Row]:
        """Rows with runs."""
        return [row for row in self.rows if row.impossible is None]

    @property
    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """Popularity and chance by split: the same for all runs, which are measured on the same samples."""
        return next((run.baselines for row in self.possible for run in row.runs if run.baselines), {})

    @property
    def front(self) -> list[Row]:
        """Rows that no other beats in memory and on the validation split, by rising memory."""
        sizes = [row.size_bytes(self.settings.quantize) for row in self.possible]
        qualities = [row.validated(self.shown.metric) for row in self.possible]
        return [self.possible[i] for i in pareto_front(sizes, qualities)]


def compare(
    recipe: str, settings: CompressConfig, rows: Sequence[Row], *, fingerprint: str, shown: Shown
) -> Comparison:
    """Choose among measured configurations, the first of which is the full vocabulary.

    The recommended one needs the least memory of those whose mean on the validation split is at most the tolerance
    below the full model's.
    """
    full, metric = rows[0], shown.metric
    tolerance = settings.tolerance
    if tolerance is None:
        of_full = full.of("validation", metric)
        deviation = 0.0 if of_full is None else of_full.std or 0.0
        tolerance = max(LEAST_TOLERANCE, deviation / math.sqrt(len(full.runs)))
    best = full.validated(metric)
    good = [row for row in rows if row.impossible is None and best - row.validated(metric) <= tolerance]
    recommended = min(good, key=lambda row: (row.size_bytes(settings.quantize), -row.validated(metric)))
    return Comparison(
        recipe=recipe,
        settings=settings,
        fingerprint=fingerprint,
        shown=shown,
        tolerance=tolerance,
        rows=tuple(rows),
        recommended=recommended,
    )


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation.

    >>> mean_std([1.0, 2.0, 3.0])
    MeanStd(mean=2.0, std=1.0)
    """
    return MeanStd(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None)


def pareto_front(sizes: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of the points than which no other is smaller and as good, or better and as small; by rising size.

    Of equal points the first.

    >>> pareto_front([3, 1, 2, 2], [0.9, 0.5, 0.4, 0.7])
    [1, 3, 0]
    """
    front: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], -qualities[i])):
        if not front or qualities[i] > qualities[front[-1]]:
            front.append(i)
    return front
