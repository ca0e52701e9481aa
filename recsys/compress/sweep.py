"""Memory against quality: one recipe of either kind, trained with several row maps at several budgets and as it is.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recsys.compress.comparison import Choice, Comparison, CompressConfig, Measurement, Row, Shown, compare
from recsys.embeddings.quantize import KINDS, row_bytes
from recsys.embeddings.tables import TableSpec
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.files import locked, make_folder, write_atomically
from recsys.training.config import RowConfig, RunConfig
from recsys.training.distributed.processes import check_alone
from recsys.training.reports import TrainingProgress
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.loop import RetrievalProgress
from recsys.training.settings import to_json

Config = TypeVar("Config", RunConfig, RetrievalRunConfig)

VERSION = 1
"""Part of every HASH: raised when results stop being comparable with those of an older version."""


StepProgress = TrainingProgress | RetrievalProgress


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that is done.

    Attributes:
        validation, test: metrics by name; ``test`` is None if that split is empty.
        tables: its physical tables.
        map_bytes: of its row maps.
        train_s, baselines: as of :class:`recsys.compress.comparison.Measurement`.
    """

    validation: Mapping[str, float | None]
    test: Mapping[str, float | None] | None
    tables: Sequence[TableSpec]
    map_bytes: int
    train_s: float | None
    baselines: Mapping[str, Mapping[str, Any]]


class Trials(Protocol[Config]):
    """A recipe on its data: what ``ranking.py`` and ``retrieval.py`` are."""

    @property
    def config(self) -> Config:
        """The recipe. Its ``rows`` are kept but for map, budget and seed."""
        ...

    @property
    def shown(self) -> Shown:
        """Metrics to choose by and to show."""
        ...

    def check(self) -> None:
        """Refuse data without a validation part, and a model without tables.

        Raises:
            ConfigError, InvalidInputError: there is nothing to choose by, or nothing to choose.
        """
        ...

    def fingerprint(self) -> str:
        """Digest of the data."""
        ...

    def train(self, config: Config, folder: Path, report: Callable[[StepProgress], None]) -> Outcome:
        """Train a configuration of the recipe to its end, or go on with it.

        Raises:
            DataFileError: a file of the run is damaged.
            InvalidInputError: the configuration cannot be.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """Progress of a comparison.

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
    training: StepProgress | None = None
    measured: Measurement | None = None
    impossible: str | None = None


def compress(
    trials: Trials[Config],
    out: Path,
    settings: CompressConfig,
    *,
    report: Callable[[SweepProgress], None] = lambda progress: None,
) -> Comparison:
    """Train what is not trained yet, and compare. Killed and called again, it goes on where it was.

    Args:
        trials: the recipe on its data.
        out: folder of the comparison.
        settings: what to compare.
        report: called after each training step and each run.

    Raises:
        ConfigError: ``out`` cannot be written, another comparison is writing to it, or there is more than one process.
        InvalidInputError: as :meth:`Trials.check`; or the full model cannot be trained.
        DataFileError: a file of a run is damaged.
    """
    check_alone("a comparison")
    trials.check()
    make_folder(out)
    try:
        with locked(out):
            return _compress(trials, out, settings, report)
    except BlockingIOError:
        raise ConfigError(f"{out}: another comparison is writing to it; wait for it, or choose another --out") from None


def _compress(
    trials: Trials[Config], out: Path, settings: CompressConfig, report: Callable[[SweepProgress], None]
) -> Comparison:
    fingerprint = trials.fingerprint()
    choices = [Choice(map="vocabulary", budget=None)]
    choices += [Choice(map=name, budget=budget) for name in settings.maps for budget in settings.budgets]
    # Seed by seed: a comparison that is stopped early has something of every configuration.
    plan = [(choice, seed) for seed in range(settings.seeds) for choice in choices]
    found: dict[tuple[Choice, int], Measurement | None] = {}
    for choice, seed in plan:
        folder = out / "runs" / run_name(configure(trials.config, choice, seed=seed), fingerprint)
        found[choice, seed] = _read_result(folder, trials.shown.metric)
    pending = [each for each in plan if found[each] is None]
    impossible: dict[Choice, str] = {}
    for number, (choice, seed) in enumerate(pending, start=1):
        progress = SweepProgress(number=number, total=len(pending), choice=choice, seed=seed)
        if choice not in impossible:
            try:
                found[choice, seed] = _run(trials, out / "runs", fingerprint, progress, report)
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
    return compare(trials.config.recipe, settings, rows, fingerprint=fingerprint, shown=trials.shown)


def configure(config: Config, choice: Choice, *, seed: int) -> Config:
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


def run_name(config: RunConfig | RetrievalRunConfig, fingerprint: str) -> str:
    """16 hex digits of the configuration, the data and :data:`VERSION`."""
    content = json.dumps([VERSION, fingerprint, json.loads(to_json(config))], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _run(
    trials: Trials[Config],
    runs_dir: Path,
    fingerprint: str,
    progress: SweepProgress,
    report: Callable[[SweepProgress], None],
) -> Measurement:
    config = configure(trials.config, progress.choice, seed=progress.seed)
    folder = runs_dir / run_name(config, fingerprint)
    make_folder(folder)  # here an error is no fault of the configuration
    done = trials.train(config, folder, lambda step: report(replace(progress, training=step)))
    tables = done.tables
    measured = Measurement(
        run=folder.name,
        validation=done.validation,
        test=done.test,
        table_bytes={kind: sum(spec.num_rows * row_bytes(kind, spec.dim) for spec in tables) for kind in KINDS},
        map_bytes=done.map_bytes,
        train_s=done.train_s,
        baselines=done.baselines,
    )
    text = json.dumps(dataclasses.asdict(measured), indent=2, allow_nan=False)
    write_atomically(folder / "result.json", text.encode() + b"\n")
    return measured


def _read_result(folder: Path, metric: str) -> Measurement | None:
    path = folder / "result.json"
    try:
        found = Measurement(**json.loads(path.read_text()))
        if not isinstance(found.validation[metric], float):
            raise ValueError(f"its {metric} is {found.validation[metric]!r}")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{path}: not readable as a result: {error}; delete {folder} to train it again") from error
