"""Frappe, app usage in context: 96,203 entries of 957 users and 4,082 apps (Baltrunas et al., arXiv 1505.03014).

Each entry comes with two sampled negatives: other apps in the same context. The published parts hold both, drawn
at random 7:2:1 (NFM, SIGIR 2017; AFN, AAAI 2020; Frappe_x1 of the BARS benchmark). There are no moments, so
samples have no histories.

The data set is for research only and may not be redistributed; nothing of it comes with this package.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

import numpy as np
import xxhash

from recsys.arrays import Int64Array
from recsys.data.log.encoder import EntityIndex
from recsys.data.log.event_table import EncodedTable, encode_event_table
from recsys.data.prepared import prepared_dataset
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.stored import Impressions, Samples
from recsys.errors import DataFileError
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
"""The published fields behind user and app, in their order.

A sampled negative keeps the ``cost`` of the entry it was drawn for, so it is context, although the app that was
used determines it. A negative whose cost is not its app's gives itself away; so it does in the published figures.
"""

FRAPPE = FeatureSet(
    name="frappe",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    context=tuple(Categorical(name=name) for name in CONTEXT),
    history=None,
)
"""Ids are those of the published files, which number the values of all fields together."""

SPLITS = ("train", "validation", "test")

_NEARBY = Path("../shared/data")
_FILES = {
    "train": ("frappe.train.libfm", "frappe.train.rebuilt.libfm"),
    "validation": ("frappe.validation.libfm",),
    "test": ("frappe.test.libfm",),
}
"""Names to look for, gzipped or not. ``rebuilt``: the published positives with negatives drawn anew."""

_LINE = re.compile(rb"-?1(?: \d{1,9}:1){10} *\r?")
_EXPECTED = "1 or -1 and ten id:1, between blanks"
_PREPARED_VERSION = 1


def prepare_frappe(path: Path | None, folder: Path) -> Dataset:
    """The published split as impressions over a table without events; written once per content.

    Places, the first of which counts: ``path``; what ``RECSYS_DATA_DIR`` names; ``../shared/data``. Each may be
    the folder of the ``frappe.*.libfm`` files (gzipped or not), or hold it as ``nfm_split``, ``frappe`` or
    ``frappe/nfm_split``.

    Args:
        path: where the data set is.
        folder: where prepared data is kept; this one's folder is named by a hash of its content.

    Returns:
        The dataset, with keys. Its samples have no moment: their time is 0.

    Raises:
        DataFileError: the data set is not there, or a file of it is malformed.
    """
    parts = read_frappe(path)
    return prepared_dataset(folder / _content_hash(parts), lambda: _encode(parts))


def read_frappe(path: Path | None) -> dict[str, Int64Array]:
    """Split -> its rows: label (0 or 1), user, item, then ``CONTEXT``; [M, 11]. Places as in :func:`prepare_frappe`.

    Raises:
        DataFileError: the data set is not there, or a file of it is malformed.
    """
    given = os.environ.get("RECSYS_DATA_DIR")
    place = path or (Path(given) if given else _NEARBY)
    for folder in (place, place / "nfm_split", place / "frappe", place / "frappe" / "nfm_split"):
        if any((folder / f"{name}{end}").is_file() for name in _FILES["train"] for end in ("", ".gz")):
            return {split: _read_part(_part_file(folder, split)) for split in SPLITS}
    raise DataFileError(
        f"{place}: holds no {_FILES['train'][0]}; expected the folder of NFM's three files of Frappe, gzipped or "
        "not, or a folder with it as frappe; name it, or set RECSYS_DATA_DIR"
    )


def _part_file(folder: Path, split: str) -> Path:
    for name in _FILES[split]:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise DataFileError(f"{folder / _FILES[split][0]}: does not exist, gzipped or not; expected the {split} part")


def _read_part(file: Path) -> Int64Array:
    try:
        data = file.read_bytes()
        text = gzip.decompress(data) if file.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(f"{file}: damaged or cut short; expected a complete gzip file: {error}") from error
    except OSError as error:
        raise DataFileError(f"{file}: cannot be read: {error.strerror}") from error
    lines = text.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _LINE.fullmatch(line):
            shown = line[:80].decode("latin-1")
            raise DataFileError(f"{file}: line {number}: expected {_EXPECTED}, found {shown!r}")
    rows = np.array(text.replace(b":1", b"").split(), dtype=np.bytes_).astype(np.int64).reshape(len(lines), -1)
    rows[:, 0] = rows[:, 0] > 0
    return rows


def _encode(parts: dict[str, Int64Array]) -> tuple[EncodedTable, Samples]:
    rows = np.concatenate([parts[split] for split in SPLITS])
    users, items = (np.unique(rows[:, column]) for column in (1, 2))
    table = encode_event_table(FRAPPE, {"user_id": users}, {"item_id": items}, {})
    user = EntityIndex(users).find(FRAPPE.user_id, rows[:, 1])
    order = np.argsort(user, kind="stable")  # impressions lie by user
    rows, user = rows[order], user[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    ends = np.cumsum([len(parts[split]) for split in SPLITS])
    splits = {split: np.sort(part) for split, part in zip(SPLITS, np.split(place, ends[:-1]), strict=True)}
    context = {name: rows[:, 3 + number] for number, name in enumerate(CONTEXT)}
    impressions = Impressions(
        user=user.astype(np.int32),
        item=EntityIndex(items).find(FRAPPE.item_id, rows[:, 2]).astype(np.int32),
        time_ms=np.zeros(len(rows), dtype=np.int64),
        context=make_columns(FRAPPE.context, context, length=len(rows)),
    )
    position = np.full(len(rows), -1, dtype=np.int64)
    return table, Samples(position=position, label=rows[:, 0].astype(np.uint8), splits=splits, impressions=impressions)


def _content_hash(parts: dict[str, Int64Array]) -> str:
    """16 hex digits that change when the rows, their features or the way they are prepared do."""
    content = xxhash.xxh3_64(f"{_PREPARED_VERSION} {FRAPPE.to_json()}".encode())
    for split in SPLITS:
        content.update(f"{split} {len(parts[split])}".encode())
        content.update(np.ascontiguousarray(parts[split]).data)
    return content.hexdigest()
