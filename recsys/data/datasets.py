"""The data sets that recipes name, ready to train on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from recsys.data.movielens import load_movielens, prepare_movielens
from recsys.data.raw_log import RawLog
from recsys.data.samples import Dataset, make_dataset
from recsys.data.synthetic import make_synthetic_log
from recsys.errors import ConfigError, DataFileError, nearest
from recsys.features.history import require_history

DATASETS = ("movielens_1m", "synthetic")


@dataclass(frozen=True)
class LoadedData:
    """A raw log (for titles, and to say where it came from) and the dataset made of it."""

    raw: RawLog
    dataset: Dataset

    @property
    def is_synthetic(self) -> bool:
        """Whether the log was generated."""
        return self.raw.best_probabilities is not None


def load_dataset(
    name: str,
    *,
    recent: int,
    work_dir: Path,
    path: Path | None = None,
    allow_download: bool = True,
    allow_synthetic: bool = False,
) -> LoadedData:
    """Find, read and prepare a data set; what was prepared before is reused.

    Args:
        name: one of ``DATASETS``.
        recent: events of the history that a sample reads.
        work_dir: where downloads and prepared data are kept.
        path: where the raw data is; default: where ``load_movielens`` looks.
        allow_download: whether the network may be used.
        allow_synthetic: take a synthetic log when the data set cannot be found.

    Raises:
        ConfigError: an unknown name.
        DataFileError: the data is malformed, or absent and ``allow_synthetic`` is false.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r}: {nearest(name, DATASETS)}")
    if name == "synthetic":
        raw = make_synthetic_log()
    else:
        raw = load_movielens(path, cache_dir=work_dir / "downloads", allow_download=allow_download)
    if name != "synthetic" and raw.best_probabilities is not None and not allow_synthetic:
        raise DataFileError(f"{raw.source}. Give its folder or zip with --data, or set RECSYS_DATA_DIR")
    dataset = prepare_movielens(raw, work_dir / "prepared")
    features = dataset.table.features
    history = dataclasses.replace(require_history(features), recent=recent)
    table = dataclasses.replace(dataset.table, features=dataclasses.replace(features, history=history))
    return LoadedData(raw=raw, dataset=make_dataset(table, dataset.samples))
