"""MovieLens-1M: find it or fetch it, split it as ReChorus 2.0 does, prepare it for training.

The data set is GroupLens' and may not be redistributed (Harper and Konstan, TiiS 5(4), 2015);
nothing of it comes with this package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from recsys.arrays import Int64Array
from recsys.data.log.event_table import EncodedTable, encode_event_table
from recsys.data.prepared import prepared_dataset
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.stored import Samples
from recsys.data.sources.download import download, md5_of
from recsys.data.sources.movielens.files import read_movielens
from recsys.data.sources.raw_log import MOVIELENS_1M, RawLog
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.errors import DataFileError, InvalidInputError

__all__ = ["MOVIELENS_1M", "LogSplit", "RawLog", "load_movielens", "prepare_movielens", "rechorus_split"]

URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
MD5 = "c4d9eecfca2ab87c1945afe126590906"
"""Published next to the file."""

_NEARBY = Path("../shared/data")
_NAMES = ("movielens_1m", "ml-1m", "ml-1m.zip")
_POSITIVE = 4
_CORE = 5
_DAY_MS = 24 * 3600 * 1000
_UTC8_MS = 8 * 3600 * 1000
_PREPARED_VERSION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSplit:
    """Rows of a RawLog, in its order; int64.

    Attributes:
        kept: rows of users and movies that are kept; histories are made of these.
        train, validation, test: which of them are samples. Kept rows may be in none.
    """

    kept: Int64Array
    train: Int64Array
    validation: Int64Array
    test: Int64Array


def load_movielens(
    path: Path | None, *, cache_dir: Path, allow_download: bool = True, url: str = URL, md5: str = MD5
) -> RawLog:
    """MovieLens-1M from the first place that has it, else a synthetic log of the same form.

    Places, in this order: ``path``; what ``RECSYS_DATA_DIR`` names; ``../shared/data``, which may
    hold ``movielens_1m``, ``ml-1m`` or ``ml-1m.zip``; an earlier download in ``cache_dir``; a download.
    The first two must hold the data set if they are given. ``RawLog.source`` says which it was,
    and for a synthetic log why.

    Args:
        path: the data set's folder or zip, or a folder with one of the above; likewise ``RECSYS_DATA_DIR``.
        cache_dir: where a download is kept.
        allow_download: whether the network may be used.
        url, md5: what to download.

    Raises:
        DataFileError: what is in the first place that has it is malformed.
    """
    if path is not None:
        return read_movielens(_inside(path) or path)
    if given := os.environ.get("RECSYS_DATA_DIR"):
        try:
            return read_movielens(_inside(Path(given)) or Path(given))
        except DataFileError as error:
            raise DataFileError(f"RECSYS_DATA_DIR is {given!r}: {error}") from error
    if found := _inside(_NEARBY):
        return read_movielens(found)
    cached = cache_dir / "ml-1m.zip"
    reason = "downloading it was not allowed"
    if cached.is_file() and md5_of(cached) == md5:
        return read_movielens(cached)
    if allow_download:
        try:
            download(url, cached, md5=md5)
        except (OSError, DataFileError) as error:
            reason = f"it could not be downloaded: {error}"
        else:
            return read_movielens(cached)
    synthetic = make_synthetic_log()
    return replace(synthetic, source=f"{synthetic.source}; MovieLens-1M was not found and {reason}")


def rechorus_split(raw: RawLog) -> LogSplit:
    """The click-prediction protocol of ReChorus 2.0 (RecSys 2024, table 6); label = rating >= 4.

    Users and movies keep at least 5 positive ratings, repeated until stable. Days are dates at
    UTC+8 counted from the first; training is up to 80 % of the last day, validation up to 90 %,
    test after. Validation and test rows of users or movies that training lacks are left out.

    Raises:
        InvalidInputError: no user has 5 positive ratings of movies that have 5.
    """
    users, user = np.unique(raw.user, return_inverse=True)
    items, item = np.unique(raw.item, return_inverse=True)
    positive = raw.rating >= _POSITIVE
    keep = np.ones(len(raw), dtype=bool)
    while True:
        chosen = keep & positive
        enough = (np.bincount(user[chosen], minlength=len(users)) >= _CORE)[user]
        enough &= (np.bincount(item[chosen], minlength=len(items)) >= _CORE)[item]
        if not (keep & ~enough).any():
            break
        keep &= enough
    kept = np.flatnonzero(keep)
    if len(kept) == 0:
        raise InvalidInputError(
            f"no user is left: expected users and movies with at least {_CORE} ratings of {_POSITIVE} or more"
        )
    day = (raw.timestamp_ms[kept] + _UTC8_MS) // _DAY_MS
    day -= day.min()
    last = int(day.max())
    in_train = day <= int(last * 0.8)
    in_validation = ~in_train & (day <= int(last * 0.9))
    train = kept[in_train]
    known = np.isin(user[kept], user[train]) & np.isin(item[kept], item[train])
    return LogSplit(
        kept=kept,
        train=train,
        validation=kept[in_validation & known],
        test=kept[~in_train & ~in_validation & known],
    )


def prepare_movielens(raw: RawLog, path: Path, *, split: Callable[[RawLog], LogSplit] = rechorus_split) -> Dataset:
    """Event table, samples and their splits; written once per content of ``raw`` and way to split it.

    Histories are made of all kept ratings, whatever their label, as in the published comparison.
    Every user and movie is in the table, rated or not, so that a store loaded from it is complete.

    Args:
        raw: the log.
        path: folder of prepared logs; this one's is named by a hash of its content.
        split: what is kept, and what is trained on, validated and tested.

    Returns:
        The dataset, with keys. ``Dataset.table`` is the event table.
    """
    return prepared_dataset(path / _content_hash(raw, split.__name__), lambda: _encode(raw, split(raw)))


def _encode(raw: RawLog, split: LogSplit) -> tuple[EncodedTable, Samples]:
    encoded = _encode_events(raw, split.kept)
    return encoded, _make_samples(raw, split, split.kept[encoded.rows])


def _encode_events(raw: RawLog, rows: Int64Array) -> EncodedTable:
    items = {name: column for name, column in raw.items.items() if name != "title"}
    events = {
        "user_id": raw.user[rows],
        "movie_id": raw.item[rows],
        "timestamp_ms": raw.timestamp_ms[rows],
        "rating": raw.rating[rows],
    }
    return encode_event_table(MOVIELENS_1M, raw.users, items, events)


def _make_samples(raw: RawLog, split: LogSplit, rows: Int64Array) -> Samples:
    """Event i of the table is row ``rows[i]`` of the log and sample i; the splits say which are used."""
    position = np.full(len(raw), -1, dtype=np.int64)
    position[rows] = np.arange(len(rows))

    def samples(wanted: Int64Array) -> Int64Array:
        found: Int64Array = np.sort(position[wanted])
        return found[found >= 0]  # a rating that repeats another is no event

    return Samples(
        position=np.arange(len(rows)),
        label=(raw.rating[rows] >= _POSITIVE).astype(np.uint8),
        splits={
            "train": samples(split.train),
            "validation": samples(split.validation),
            "test": samples(split.test),
        },
    )


def _content_hash(raw: RawLog, split: str) -> str:
    """16 hex digits that change when the log, its features or the way it is split or prepared do."""
    entities = json.dumps([dict(raw.users), dict(raw.items)], default=lambda column: column.tolist())
    content = xxhash.xxh3_64(f"{_PREPARED_VERSION} {split} {MOVIELENS_1M.to_json()} {entities}".encode())
    for column in (raw.user, raw.item, raw.rating, raw.timestamp_ms):
        content.update(np.ascontiguousarray(column).data)
    return content.hexdigest()


def _inside(folder: Path) -> Path | None:
    """The data set's folder or zip in ``folder``, if it holds one."""
    return next((folder / name for name in _NAMES if (folder / name).exists()), None)
