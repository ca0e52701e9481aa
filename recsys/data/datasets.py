"""The data sets that recipes name, ready to train on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.log.event_table import EventTable, open_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Samples, open_samples
from recsys.data.sources.frappe import prepare_frappe
from recsys.data.sources.movielens.ctr import prepare_movielens_ctr
from recsys.data.sources.movielens.long_histories import prepare_movielens_long
from recsys.data.sources.movielens.prepare import load_movielens, prepare_movielens, rechorus_split
from recsys.data.sources.movielens.temporal import temporal_split
from recsys.data.sources.raw_log import DATASETS, LONG_LOGS, SEQUENCES, RawLog
from recsys.data.sources.sequences.prepare import prepare_sequences
from recsys.data.sources.synthetic.logs import make_long_range_log, make_synthetic_log
from recsys.errors import ConfigError, DataFileError, nearest


@dataclass(frozen=True)
class LoadedData:
    """A dataset, and the raw log it was made of (for titles, and to say where it came from).

    For a folder that ``recsys prepare`` wrote, the raw log is empty but for its source.
    """

    raw: RawLog
    dataset: Dataset

    @property
    def is_synthetic(self) -> bool:
        """True if the log was generated."""
        return self.raw.best_probabilities is not None


def load_dataset(
    name: str,
    *,
    recent: int | None = None,
    work_dir: Path,
    path: Path | None = None,
    allow_download: bool = True,
    allow_synthetic: bool = False,
) -> LoadedData:
    """Find, read and prepare a data set; what was prepared before is reused.

    Args:
        name: one of ``DATASETS``, or a folder that ``recsys prepare`` wrote (with a ``/`` in its name).
        recent: events of the history that a sample reads; default: as declared.
        work_dir: where downloads and prepared data are kept.
        path: where the raw data is; default: where ``load_movielens`` looks.
        allow_download: whether the network may be used.
        allow_synthetic: take a synthetic log when the data set cannot be found.

    Raises:
        ConfigError: an unknown name, or no such folder.
        DataFileError: the data is malformed, or absent and ``allow_synthetic`` is false.
    """
    if name not in DATASETS and ("/" in name or Path(name).is_dir()):
        folder = Path(name)
        if not folder.is_dir():
            raise ConfigError(f"{name}: no such folder")
        return LoadedData(raw=_no_log(f"prepared log in {folder}"), dataset=_open_prepared(folder, recent))
    if name not in DATASETS:
        raise ConfigError(
            f"data set {name!r}: {nearest(name, DATASETS)}; or the folder of a prepared log, such as ./{name}"
        )
    if name == "frappe":
        dataset = prepare_frappe(path, work_dir / "prepared")
        return LoadedData(raw=_no_log("Frappe, the published split"), dataset=dataset)
    if name in SEQUENCES:
        dataset = prepare_sequences(name, path, work_dir / "prepared")
        dataset = make_dataset(_reading(dataset.table, recent), dataset.samples)
        return LoadedData(raw=_no_log(f"S3-Rec's {name}, the last item of each user for test"), dataset=dataset)
    if name == "synthetic":
        raw = make_synthetic_log()
    elif name == "synthetic_long":
        raw = make_long_range_log()
    else:
        raw = load_movielens(path, cache_dir=work_dir / "downloads", allow_download=allow_download)
    if not name.startswith("synthetic") and raw.best_probabilities is not None and not allow_synthetic:
        raise DataFileError(f"{raw.source}. Give its folder or zip with --data, or set RECSYS_DATA_DIR")
    if name == "movielens_ctr":
        return LoadedData(raw=raw, dataset=prepare_movielens_ctr(raw, work_dir / "prepared"))
    if name in LONG_LOGS:
        dataset = prepare_movielens_long(raw, work_dir / "prepared")
        return LoadedData(raw=raw, dataset=make_dataset(_reading(dataset.table, recent), dataset.samples))
    split = temporal_split if name == "movielens_1m_temporal" else rechorus_split
    dataset = prepare_movielens(raw, work_dir / "prepared", split=split)
    return LoadedData(raw=raw, dataset=make_dataset(_reading(dataset.table, recent), dataset.samples))


def _open_prepared(folder: Path, recent: int | None) -> Dataset:
    table = open_event_table(folder / "events")
    none = np.zeros(0, dtype=np.int64)
    samples = Samples(
        position=none, label=none.astype(np.uint8), splits={"train": none, "validation": none, "test": none}
    )
    if (folder / "samples").exists():
        samples = open_samples(folder / "samples")
    return make_dataset(_reading(table, recent), samples)


def _reading(table: EventTable, recent: int | None) -> EventTable:
    """The table, of which samples read so many events; as many as declared without a number, or with 0."""
    declared = table.features.history
    if not recent or declared is None:
        return table
    history = dataclasses.replace(declared, recent=recent)
    return dataclasses.replace(table, features=dataclasses.replace(table.features, history=history))


def _no_log(source: str) -> RawLog:
    none = np.zeros(0, dtype=np.int64)
    return RawLog(
        users={}, items={}, user=none, item=none, rating=none.astype(np.uint8), timestamp_ms=none, source=source
    )
