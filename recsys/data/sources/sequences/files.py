"""Read S3-Rec's files: ``NAME.txt``, ``NAME_item2attributes.json``, and ``NAME_sample.txt`` where it is published."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.log.event_table import offsets_of
from recsys.errors import DataFileError

_LINE = re.compile(rb"\d{1,18}(?: \d{1,18})+ *\r?")
_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """U users' items, oldest first.

    Attributes:
        user: ids; [U], int64.
        offsets: user u's items are item[offsets[u]:offsets[u + 1]]; [U + 1], int64.
        item: ids; [N], int64.
        attributes: item id -> its attributes as listed; an item may be absent, or have none.
        negatives: for each user the items that its last one is ranked among, where they are published; [U, K], int64.
    """

    user: Int64Array
    offsets: Int64Array
    item: Int64Array
    attributes: Mapping[int, tuple[int, ...]]
    negatives: Int64Array | None


def read_sequences(folder: Path, name: str) -> Sequences:
    """Read one set, gzipped or not.

    Raises:
        DataFileError: a file is absent, damaged or malformed: which file, which line, what was expected; a user is
            there twice; or the published negatives are of other users, of unknown items, or of items the user had.
    """
    file = _file(folder, f"{name}.txt")
    if file is None:
        raise DataFileError(
            f"{folder / name}.txt: does not exist, gzipped or not; expected lines of user item item ..."
        )
    rows = _read_lines(file)
    user = np.array([row[0] for row in rows], dtype=np.int64)
    offsets = offsets_of(np.array([len(row) - 1 for row in rows]))
    item = np.concatenate([row[1:] for row in rows])
    listed = _file(folder, f"{name}_item2attributes.json")
    if listed is None:
        raise DataFileError(
            f"{folder / name}_item2attributes.json: does not exist, gzipped or not; expected attributes by item id"
        )
    sampled = _file(folder, f"{name}_sample.txt")
    found = Sequences(user=user, offsets=offsets, item=item, attributes=_read_attributes(listed), negatives=None)
    if sampled is None:
        return found
    negatives = _read_negatives(sampled, found)
    return Sequences(user=user, offsets=offsets, item=item, attributes=found.attributes, negatives=negatives)


def _file(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)


def _bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if file.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(f"{file}: damaged or cut short; expected a complete gzip file: {error}") from error
    except OSError as error:
        raise DataFileError(f"{file}: cannot be read: {error.strerror}") from error


def _read_lines(file: Path) -> list[Int64Array]:
    """The numbers of each line, of which the first is a user who is in no other line."""
    rows, seen = [], dict[int, int]()
    for number, line in enumerate(_bytes(file).removesuffix(b"\n").split(b"\n"), start=1):
        if not _LINE.fullmatch(line):
            text = line.decode("latin-1")
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise DataFileError(f"{file}: line {number}: expected user item item ... between blanks, found {shown!r}")
        row = np.array(line.split(), dtype=np.bytes_).astype(np.int64)
        if (first := seen.setdefault(int(row[0]), number)) != number:
            raise DataFileError(f"{file}: line {number}: expected a new user, found {row[0]}, whom line {first} has")
        rows.append(row)
    return rows


def _read_attributes(file: Path) -> dict[int, tuple[int, ...]]:
    try:
        listed = json.loads(_bytes(file))
    except ValueError as error:
        raise DataFileError(f"{file}: not JSON: {error}") from error
    if not isinstance(listed, dict):
        raise DataFileError(f"{file}: expected an object of attributes by item id, found {type(listed).__name__}")
    found = {}
    for item, attributes in listed.items():
        fits = isinstance(attributes, list) and all(type(a) is int and 0 <= a < 2**62 for a in attributes)
        if not item.isascii() or not item.isdigit() or not fits:
            raise DataFileError(
                f"{file}: item {item!r}: expected a list of attribute ids, found {str(attributes)[:_SHOWN]}"
            )
        found[int(item)] = tuple(attributes)
    return found


def _read_negatives(file: Path, found: Sequences) -> Int64Array:
    rows = _read_lines(file)
    place = {int(user): row for row, user in enumerate(found.user)}
    items = np.unique(found.item)
    negatives: dict[int, Int64Array] = {}
    count = len(rows[0])
    for number, row in enumerate(rows, start=1):
        at = f"{file}: line {number}"
        user = place.get(int(row[0]))
        if user is None:
            raise DataFileError(f"{at}: expected a user who has a sequence, found user {row[0]}")
        if len(row) != count or len(np.unique(row[1:])) != len(row) - 1:
            raise DataFileError(
                f"{at}: expected {count - 1} different items, as in line 1, found {len(np.unique(row[1:]))}"
            )
        if len(unknown := np.setdiff1d(row[1:], items)):
            raise DataFileError(f"{at}: expected items of the sequences, found item {unknown[0]}")
        had = found.item[found.offsets[user] : found.offsets[user + 1]]
        if len(both := np.intersect1d(row[1:], had)):
            raise DataFileError(f"{at}: expected items that user {row[0]} never had, found item {both[0]}")
        negatives[user] = row[1:]
    if absent := [user for user in range(len(found.user)) if user not in negatives]:
        raise DataFileError(f"{file}: no line of user {found.user[absent[0]]}; expected one of each user")
    return np.stack([negatives[user] for user in range(len(found.user))])
