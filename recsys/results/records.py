"""Recorded runs: the file ``docs/results/ROW/SEED.json`` of each run that a row of the tables is made of.

A recorded run is a run's ``record.json`` with its overrides taken from its configuration, its command as anyone would
type it, and 95 % intervals of its test metrics where the run kept its predictions.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataFileError, nearest
from recsys.evaluation.evaluate import resample
from recsys.evaluation.predictions import FILE, USER_FILE, read_predictions, read_user_values
from recsys.files import make_folder, write_atomically
from recsys.metrics import mean_resamples
from recsys.recipes import RECIPES, RETRIEVAL_RECIPES
from recsys.results.rows import Row
from recsys.training.run.record import RunRecord, read_record

RESAMPLES = 1000
_NOT_OF_THE_MODEL = ("train.seed", "train.checkpoint_steps", "train.checkpoint_epochs", "train.tensorboard")
"""Settings that runs of one row may differ in."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run.

    Attributes:
        row: the row it belongs to.
        run: what the run left.
        intervals: metric of the test split -> 95 % interval under resampling of users.
        config: every setting of the run, so that a recipe that was changed since is noticed.
    """

    row: str
    run: RunRecord
    intervals: Mapping[str, Interval]
    config: Mapping[str, Any]


def add(run_dir: Path, rows: Sequence[Row], folder: Path, *, row: str | None = None) -> Path:
    """Record a finished run; a run of the same row and seed is replaced.

    Args:
        run_dir: of the run.
        rows: all that there are.
        folder: of the records.
        row: name of the row. Default: the one with the run's recipe and overrides.

    Returns:
        The file written.

    Raises:
        DataFileError: the run has no record.
        ConfigError: no such row, or not one for this run.
    """
    run = read_record(run_dir)
    config = _config(run_dir)
    own = configured_overrides(config, run.recipe)
    chosen = _row(rows, row, run.recipe, own)
    run = dataclasses.replace(
        run,
        overrides=tuple(own),
        command=shlex.join(["recsys", "train", run.recipe, *own, f"train.seed={run.seed}"]),
    )
    intervals = _intervals(run_dir, chosen.split)
    values = {"row": chosen.name, **dataclasses.asdict(run), "intervals": intervals, "config": config}
    file = folder / chosen.name / f"{run.seed}.json"
    make_folder(file.parent)
    write_atomically(file, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")
    return file


def read_all(folder: Path, rows: Sequence[Row]) -> dict[str, list[Recorded]]:
    """The recorded runs of each row, by seed; a row without any has an empty list.

    Raises:
        DataFileError: a file is not a recorded run, lies under another row's name, or runs of one row differ in more
            than their seed.
    """
    known = {row.name for row in rows}
    found: dict[str, list[Recorded]] = {name: [] for name in known}
    for file in sorted(folder.glob("*/*.json"), key=lambda file: (file.parent.name, len(file.name), file.name)):
        recorded = read_recorded(file)
        if recorded.row not in known:
            raise DataFileError(f"{file}: unknown row {recorded.row!r}: {nearest(recorded.row, known)}")
        if recorded.row != file.parent.name:
            raise DataFileError(f"{file}: a run of row {recorded.row!r}; allowed: those of row {file.parent.name!r}")
        earlier = found[recorded.row]
        if earlier and (differences := sorted(_conflicts(recorded.config, earlier[0].config, ""))):
            raise DataFileError(
                f"{file}: settings differ from those of the row's other runs: {', '.join(differences)}; "
                "allowed: another seed"
            )
        earlier.append(recorded)
    return found


def read_recorded(file: Path) -> Recorded:
    """One recorded run.

    Raises:
        DataFileError: it is not one.
    """
    run = read_record(file, also=("row", "intervals", "config"))
    values = json.loads(file.read_text())
    try:
        intervals = {name: (float(low), float(high)) for name, (low, high) in values["intervals"].items()}
        return Recorded(row=str(values["row"]), run=run, intervals=intervals, config=dict(values["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataFileError(f"{file}: not a recorded run: {error}; `recsys results add` writes them") from error


def configured_overrides(config: Mapping[str, Any], recipe: str) -> list[str]:
    """Differences of a configuration from its recipe as it is today, as overrides; settings that are newer than the
    configuration are left out.

    Raises:
        ConfigError: there is no such recipe.
    """
    recipes: dict[str, Callable[[], Any]] = {**RECIPES, **RETRIEVAL_RECIPES}
    if recipe not in recipes:
        raise ConfigError(f"unknown recipe {recipe!r}: {nearest(recipe, recipes)}")
    base = json.loads(json.dumps(dataclasses.asdict(recipes[recipe]())))
    found = (override for section in ("data", "model", "tables", "rows", "train") if section in config
             for override in _differences(config[section], base.get(section, {}), f"{section}."))  # fmt: skip
    return sorted(each for each in found if _setting(each) not in _NOT_OF_THE_MODEL)


def recipe_changed(recorded: Recorded) -> bool:
    """True if the row's command would now train something else than was recorded."""
    try:
        return configured_overrides(recorded.config, recorded.run.recipe) != sorted(recorded.run.overrides)
    except ConfigError:
        return True


def _differences(own: Mapping[str, Any], base: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for name, value in own.items():
        path = prefix + name
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            yield from _differences(value, base[name], f"{path}.")
        elif value != base.get(name):
            yield f"{path}={value if isinstance(value, str) else json.dumps(value)}"


def _conflicts(own: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> Iterable[str]:
    """Settings of both that differ, the seed aside; a run may be older than a setting."""
    common = {name: value for name, value in own.items() if name in other and prefix + name not in _NOT_OF_THE_MODEL}
    for name, value in common.items():
        if isinstance(value, dict) and isinstance(other[name], dict):
            yield from _conflicts(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            yield f"{prefix}{name}={json.dumps(value)}"


def _row(rows: Sequence[Row], name: str | None, recipe: str, overrides: Sequence[str]) -> Row:
    if name is not None:
        found = [row for row in rows if row.name == name]
        if not found:
            raise ConfigError(f"unknown row {name!r}: {nearest(name, [row.name for row in rows])}")
        if found[0].recipe != recipe:
            raise ConfigError(f"row {name!r} is of recipe {found[0].recipe!r}; the run is of {recipe!r}")
        return found[0]
    own = set(overrides)
    of_recipe = [row for row in rows if row.recipe == recipe]
    found = [row for row in of_recipe if set(row.overrides) == own]
    if len(found) == 1:
        return found[0]
    if not of_recipe:
        recipes = ", ".join(sorted({row.recipe for row in rows if row.recipe}))
        raise ConfigError(f"no row for recipe {recipe!r}; recipes with rows (`recsys/results/rows.py`): {recipes}")
    names = ", ".join(f"{row.name} ({' '.join(row.overrides) or 'no overrides'})" for row in of_recipe)
    raise ConfigError(
        f"no row for recipe {recipe!r} with overrides {sorted(own)}; rows of this recipe: {names}; name one with --row"
    )


def _config(run_dir: Path) -> dict[str, Any]:
    try:
        values = json.loads((run_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataFileError(f"{run_dir}: its config.json cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise DataFileError(f"{run_dir}: its config.json is not an object")
    return values


def _setting(override: str) -> str:
    return override.partition("=")[0]


def _intervals(run_dir: Path, split: str) -> dict[str, Interval]:
    if (run_dir / USER_FILE).exists():
        drawn = mean_resamples(dict(read_user_values(run_dir, split).values), resamples=RESAMPLES)
    elif (run_dir / FILE).exists():
        drawn = resample(read_predictions(run_dir, split), resamples=RESAMPLES)
    else:
        return {}
    return {name: found for name, each in drawn.items() if (found := each.interval()) is not None}
