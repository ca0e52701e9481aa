"""Memory against quality: one recipe, trained with several row maps at several budgets and as it is.

Which configuration to take is chosen by the validation split alone; the test split is reported.

A folder of a comparison::

    compress.json, compress.md, compress.png    what was found (``report.py``)
    runs/HASH/                                  a run like `recsys train`'s, for each configuration and seed
    runs/HASH/result.json                       written last: a run with it is never trained again

HASH is of the whole configuration and of the data, so that runs of other maps, budgets, seeds and recipes lie side by
side, and what was trained once is found again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.embeddings.quantize import KINDS, Kind, row_bytes
from recsys.errors import ConfigError, DataFileError, InvalidInputError, nearest
from recsys.evaluation.evaluate import Metrics
from recsys.files import locked, make_folder, write_atomically
from recsys.training.config import MapName, RowConfig, RunConfig
from recsys.training.distributed.processes import check_alone
from recsys.training.loop import train
from recsys.training.reports import TrainingProgress
from recsys.training.settings import to_json
from recsys.training.tables.plan import table_specs

VERSION = 1
"""Part of every HASH: raised when results stop being comparable with those of an older version."""

LEAST_TOLERANCE = 0.001


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What to compare.

    Attributes:
        maps: row maps beside the full vocabulary.
        budgets: of each map, as ``rows.budget``.
        seeds: runs of each configuration; they differ in ``train.seed`` and ``rows.seed``.
        quantize: in what form tables are counted when a configuration is chosen; all are trained in float32.
        tolerance: validation AUC that the choice may lose against the full model; None: one standard error of the
            full model's mean, and 0.001 at least.
    """

    maps: tuple[MapName, ...]
    budgets: tuple[float, ...]
    seeds: int = 3
    quantize: Kind = "none"
    tolerance: float | None = None

    def __post_init__(self) -> None:
        known = [name for name in typing.get_args(MapName) if name != "vocabulary"]
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
class Choice:
    """A configuration: a map at a budget, or the full vocabulary, which has none."""

    map: MapName
    budget: float | None

    def __str__(self) -> str:
        return "full vocabulary" if self.budget is None else f"{self.map}, budget {self.budget:g}"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one run gave.

    Attributes:
        run: name of its folder in ``runs``.
        validation, test: metrics; ``test`` is None if that split is empty.
        table_bytes: of the embedding tables, by the form they are stored in.
        map_bytes: of the row maps.
        train_s: of all training steps, by their rate, without evaluation; None if it went on after the last one.
    """

    run: str
    validation: Metrics
    test: Metrics | None
    table_bytes: Mapping[Kind, int]
    map_bytes: int
    train_s: float | None


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

    @property
    def auc(self) -> float:
        """Mean on the validation split."""
        return statistics.fmean(run.validation.auc for run in self.runs)

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
    """What was found: the full vocabulary's row first."""

    recipe: str
    settings: CompressConfig
    fingerprint: str
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
    def front(self) -> list[Row]:
        """Rows that no other beats in memory and validation AUC, by rising memory."""
        sizes = [row.size_bytes(self.settings.quantize) for row in self.possible]
        return [self.possible[i] for i in pareto_front(sizes, [row.auc for row in self.possible])]


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """Where a comparison is.

    Attributes:
        number, total: of this run among those that were not found trained.
        choice, seed: of this run.
        training: after a training step.
        measured: when the run is done.
        impossible: why the configuration cannot be.
    """

    number: int
    total: int
    choice: Choice
    seed: int
    training: TrainingProgress | None = None
    measured: Measurement | None = None
    impossible: str | None = None


def compress(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    settings: CompressConfig,
    *,
    report: Callable[[SweepProgress], None] = lambda progress: None,
) -> Comparison:
    """Train what is not trained yet, and compare. Killed and called again, it goes on where it was.

    Args:
        config: the recipe. Its ``rows`` are kept but for map, budget and seed.
        dataset: with keys, and with validation samples.
        out: folder of the comparison.
        settings: what to compare.
        report: called after each training step and each run.

    Raises:
        ConfigError: ``out`` cannot be written, another comparison is writing to it, or there is more than one process.
        InvalidInputError: there are no validation samples, or the full model cannot be trained.
        DataFileError: a file of a run is damaged.
    """
    check_alone("a comparison")
    if not len(dataset.split("validation")):
        raise InvalidInputError("the validation split is empty: there is nothing to choose by")
    make_folder(out)
    try:
        with locked(out):
            return _compress(config, dataset, out, settings, report)
    except BlockingIOError:
        raise ConfigError(f"{out}: another comparison is writing to it; wait for it, or choose another --out") from None


def _compress(
    config: RunConfig, dataset: Dataset, out: Path, settings: CompressConfig, report: Callable[[SweepProgress], None]
) -> Comparison:
    fingerprint = data_fingerprint(dataset)
    choices = [Choice(map="vocabulary", budget=None)]
    choices += [Choice(map=name, budget=budget) for name in settings.maps for budget in settings.budgets]
    # Seed by seed: a comparison that is stopped early has something of every configuration.
    plan = [(choice, seed) for seed in range(settings.seeds) for choice in choices]
    found: dict[tuple[Choice, int], Measurement | None] = {}
    for choice, seed in plan:
        folder = out / "runs" / run_name(configure(config, choice, seed=seed), fingerprint)
        found[choice, seed] = _read_result(folder)
    pending = [each for each in plan if found[each] is None]
    impossible: dict[Choice, str] = {}
    for number, (choice, seed) in enumerate(pending, start=1):
        progress = SweepProgress(number=number, total=len(pending), choice=choice, seed=seed)
        if choice not in impossible:
            try:
                found[choice, seed] = _run(config, dataset, out / "runs", fingerprint, progress, report)
            except DataFileError:
                raise
            except InvalidInputError as error:
                if choice.budget is None:
                    raise
                impossible[choice] = str(error)
        report(replace(progress, measured=found[choice, seed], impossible=impossible.get(choice)))
    rows = []
    for choice in choices:
        runs = [run for seed in range(settings.seeds) if (run := found[choice, seed]) is not None]
        why = impossible.get(choice)
        rows.append(Row(choice=choice, runs=() if why else tuple(runs), impossible=why))
    return compare(config.recipe, settings, rows, fingerprint=fingerprint)


def compare(recipe: str, settings: CompressConfig, rows: Sequence[Row], *, fingerprint: str) -> Comparison:
    """Choose among measured configurations, the first of which is the full vocabulary.

    The recommended one needs the least memory of those whose mean validation AUC is at most the tolerance below
    the full model's.
    """
    full = rows[0]
    tolerance = settings.tolerance
    if tolerance is None:
        auc = mean_std([run.validation.auc for run in full.runs])
        tolerance = max(LEAST_TOLERANCE, (auc.std or 0.0) / math.sqrt(len(full.runs)))
    good = [row for row in rows if row.impossible is None and full.auc - row.auc <= tolerance]
    recommended = min(good, key=lambda row: (row.size_bytes(settings.quantize), -row.auc))
    return Comparison(
        recipe=recipe,
        settings=settings,
        fingerprint=fingerprint,
        tolerance=tolerance,
        rows=tuple(rows),
        recommended=recommended,
    )


def configure(config: RunConfig, choice: Choice, *, seed: int) -> RunConfig:
    """The recipe with a map at a budget, or with the full vocabulary, and the seeds of a repetition."""
    rows = replace(config.rows, map=choice.map, seed=config.rows.seed + seed)
    if choice.budget is None:
        # What only other maps read does not tell two full models apart.
        rows = RowConfig(
            min_count=rows.min_count, unknown_rows=rows.unknown_rows, spare_rows=rows.spare_rows, seed=rows.seed
        )
    else:
        rows = replace(rows, budget=choice.budget)
    return replace(config, rows=rows, train=replace(config.train, seed=config.train.seed + seed))


def run_name(config: RunConfig, fingerprint: str) -> str:
    """16 hex digits of the configuration, the data and :data:`VERSION`."""
    content = json.dumps([VERSION, fingerprint, json.loads(to_json(config))], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


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


def _run(
    config: RunConfig,
    dataset: Dataset,
    runs_dir: Path,
    fingerprint: str,
    progress: SweepProgress,
    report: Callable[[SweepProgress], None],
) -> Measurement:
    run_config = configure(config, progress.choice, seed=progress.seed)
    folder = runs_dir / run_name(run_config, fingerprint)
    make_folder(folder)  # here an error is no fault of the configuration
    result = train(
        run_config, dataset, folder, resume=True, report=lambda step: report(replace(progress, training=step))
    )
    assert result.validation is not None
    row_maps = result.trained.row_maps
    specs = table_specs(run_config.tables, run_config.rows, row_maps)
    samples = len(dataset.split("train")) * run_config.train.epochs
    measured = Measurement(
        run=folder.name,
        validation=result.validation,
        test=result.test,
        table_bytes={kind: sum(spec.num_rows * row_bytes(kind, spec.dim) for spec in specs) for kind in KINDS},
        map_bytes=sum(row_map.size_bytes for row_map in row_maps.values()),
        train_s=samples / result.samples_per_s if result.samples_per_s else None,
    )
    text = json.dumps(dataclasses.asdict(measured), indent=2, allow_nan=False)
    write_atomically(folder / "result.json", text.encode() + b"\n")
    return measured


def _read_result(folder: Path) -> Measurement | None:
    path = folder / "result.json"
    try:
        values = json.loads(path.read_text())
        metrics = {name: values[name] and Metrics(**values[name]) for name in ("validation", "test")}
        return Measurement(**{**values, **metrics})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{path}: not readable as a result: {error}; delete {folder} to train it again") from error
