"""Predictions for the samples of a split, kept beside the run so that they can be looked at and compared later.

``predictions.npz`` in the run's folder holds, for each split, columns with one row per sample: who was shown what and
when, the label, the logit, and what segments are made of.

Legend: ``M`` samples.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.errors import DataFileError, nearest
from recsys.files import write_atomically

FILE = "predictions.npz"
USER_FILE = "user_values.npz"
SPLITS = ("train", "validation", "test")

PRIOR = 5
"""Samples at the share of positives of all that an item's own are mixed with: one positive is no certainty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Samples of a split with a model's logits; every array is [M].

    Attributes:
        user_key, item_key: keys of the ids.
        time_ms: the samples' moments.
        label: 0 or 1.
        logit: the model's.
        earlier_events: events of the user before the moment, however many the model read; -1 in all: the features
            declare no history.
        user_train, item_train: training samples of the user, and of the item.
        popularity: the item's share of positives in training, float64: with p positives of n samples and the share r of
            all, (p + ``PRIOR`` r) / (n + ``PRIOR``), so that an item without samples has r.
        chance: r, float64; 0.5 without training samples.
    """

    user_key: Int64Array
    item_key: Int64Array
    time_ms: Int64Array
    label: npt.NDArray[np.uint8]
    logit: Float32Array
    earlier_events: Int32Array
    user_train: Int32Array
    item_train: Int32Array
    popularity: Float64Array
    chance: Float64Array

    def __len__(self) -> int:
        """M."""
        return len(self.label)

    @property
    def probability(self) -> Float64Array:
        """Of a positive; [M]."""
        with np.errstate(over="ignore"):  # 1 / infinity is the 0 that such a logit means
            probability: Float64Array = 1.0 / (1.0 + np.exp(-self.logit.astype(np.float64)))
        return probability

    def where(self, chosen: BoolArray) -> Predictions:
        """Some of the samples."""
        return Predictions(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})


def predictions_of(dataset: Dataset, indices: Int64Array, logits: Float32Array) -> Predictions:
    """Join logits with their samples.

    Args:
        dataset: of keys or of codes.
        indices: of the samples, [M].
        logits: [M].
    """
    user, item = dataset.sample_user[indices], dataset.sample_item[indices]
    training = dataset.split("train")
    of_user = np.bincount(dataset.sample_user[training], minlength=len(dataset.table.user_keys))
    of_item = np.bincount(dataset.sample_item[training], minlength=len(dataset.table.item_keys))
    positives = np.bincount(
        dataset.sample_item[training], weights=dataset.samples.label[training], minlength=len(dataset.table.item_keys)
    )
    share = float(positives.sum() / len(training)) if len(training) else 0.5
    popularity = (positives + PRIOR * share) / (of_item + PRIOR)
    earlier = np.full(len(indices), -1)
    if dataset.table.features.history is not None:
        earlier = dataset.history_end[indices] - dataset.table.offsets[user]
    return Predictions(
        user_key=np.asarray(dataset.table.user_keys[user], dtype=np.int64),
        item_key=np.asarray(dataset.table.item_keys[item], dtype=np.int64),
        time_ms=dataset.sample_time_ms[indices],
        label=dataset.samples.label[indices],
        logit=logits,
        earlier_events=earlier.astype(np.int32),
        user_train=of_user[user].astype(np.int32),
        item_train=of_item[item].astype(np.int32),
        popularity=popularity[item],
        chance=np.full(len(indices), share),
    )


def write_predictions(run_dir: Path, predictions: Mapping[str, Predictions]) -> None:
    """Keep the predictions of some splits; those of other splits stay, unless the file is damaged.

    Args:
        run_dir: the run's folder, which exists.
        predictions: by split.

    Raises:
        ConfigError: the folder cannot be written.
    """
    columns = _others(run_dir / FILE, predictions)
    columns |= {f"{split}.{name}": a for split, of in predictions.items() for name, a in vars(of).items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **columns)
    write_atomically(run_dir / FILE, content.getvalue())


def read_predictions(run_dir: Path, split: str) -> Predictions:
    """Read the predictions of a run's model for a split.

    Raises:
        DataFileError: the run has no predictions of that split, or their file is damaged.
    """
    file = run_dir / FILE
    found = _read_all(file) if file.exists() else {}
    if split not in found:
        raise DataFileError(f"{file}: no predictions of the {split} split; {_remedy(run_dir, split, found)}")
    return found[split]


@dataclass(frozen=True, kw_only=True, eq=False)
class UserValues:
    """Metrics of each ranked user, of a model that ranks all items.

    Attributes:
        user_G: the users, ascending.
        values: metric -> its value for each, [G]; the metric is their mean.
        baselines: ``popularity``, ``chance`` and the like -> the same of their lists.
    """

    user_G: Int64Array
    values: Mapping[str, Float64Array]
    baselines: Mapping[str, Mapping[str, Float64Array]] = field(default_factory=dict)

    def where(self, chosen_G: BoolArray) -> UserValues:
        """Some of the users."""
        return UserValues(
            user_G=self.user_G[chosen_G],
            values={name: values_G[chosen_G] for name, values_G in self.values.items()},
            baselines={
                baseline: {name: values_G[chosen_G] for name, values_G in of.items()}
                for baseline, of in self.baselines.items()
            },
        )


def write_user_values(run_dir: Path, values: Mapping[str, UserValues]) -> None:
    """Keep the per-user metrics of some splits in ``user_values.npz``; as :func:`write_predictions`.

    Raises:
        ConfigError: the folder cannot be written.
    """
    file = run_dir / USER_FILE
    columns = _others(file, values)
    columns |= {f"{split}.user": of.user_G for split, of in values.items()}
    for split, of in values.items():
        columns |= {f"{split}.{name}": column for name, column in of.values.items()}
        for baseline, values_of in of.baselines.items():
            columns |= {f"{split}.{baseline}.{name}": column for name, column in values_of.items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **columns)
    write_atomically(file, content.getvalue())


def read_user_values(run_dir: Path, split: str) -> UserValues:
    """Read what :func:`write_user_values` wrote for a split.

    Raises:
        DataFileError: there is nothing of that split, or the file is damaged.
    """
    found = _read_columns(run_dir / USER_FILE)
    columns = found.get(split, {})
    if "user" not in columns:
        raise DataFileError(f"{run_dir / USER_FILE}: no values of the {split} split; {_remedy(run_dir, split, found)}")
    user_G = columns.pop("user")
    baselines: dict[str, dict[str, Float64Array]] = {}
    for name in [name for name in columns if "." in name]:
        baseline, _, metric = name.partition(".")
        baselines.setdefault(baseline, {})[metric] = columns.pop(name)
    return UserValues(user_G=user_G, values=columns, baselines=baselines)


def _remedy(run_dir: Path, split: str, found: Iterable[str]) -> str:
    """Advice for a split that a run's folder does not have."""
    if split not in SPLITS:
        return nearest(split, SPLITS)
    names = ", ".join(sorted(found))
    if not names and not (run_dir / "config.json").exists():
        return f"{run_dir} is not the folder of a run"
    return f"found: {names or 'none'}. `recsys evaluate {run_dir} --split {split}` writes them"


def _others(file: Path, splits: Iterable[str]) -> dict[str, np.ndarray]:
    """The columns of the other splits in a file; none of one that is damaged, which is then replaced."""
    try:
        found = _read_columns(file) if file.exists() else {}
    except DataFileError:
        return {}
    return {f"{split}.{n}": column for split, of in found.items() if split not in splits for n, column in of.items()}


def _read_all(file: Path) -> dict[str, Predictions]:
    try:
        return {split: Predictions(**values) for split, values in _read_columns(file).items()}
    except TypeError as error:
        raise DataFileError(f"{file}: not readable as predictions: {error}; `recsys evaluate` writes them") from error


def _read_columns(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> name -> column."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            for key in arrays.files:
                split, _, name = key.partition(".")
                columns.setdefault(split, {})[name] = arrays[key]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{file}: not readable as predictions: {error}; `recsys evaluate` writes them") from error
    return columns
