"""Memory against quality: one recipe, trained with several row maps at several budgets and as it is.

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.compress.comparison import Choice, Comparison, CompressConfig, Measurement, Row, compare
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.embeddings.quantize import KINDS, row_bytes
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.evaluation.baselines import baselines_json
from recsys.evaluation.evaluate import Metrics
from recsys.files import locked, make_folder, write_atomically
from recsys.training.config import RowConfig, RunConfig
from recsys.training.distributed.processes import check_alone
from recsys.training.loop import train
from recsys.training.reports import TrainingProgress
from recsys.training.settings import to_json
from recsys.training.tables.plan import table_specs

VERSION = 1
"""Part of every HASH: raised when results stop being comparable with those of an older version."""


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
        baselines={split: baselines_json(found) for split, found in result.baselines.items()},
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
