"""NamesWriter: the texts of a log's string ids, collected batch by batch, in bounded memory.

Distinct pairs of key and text are kept in memory, sorted by key; where they grow too many, they go to disk as a file
of names like any other (``features/names.py``), and at the end these files are merged, one range of keys after another.
So 100 million ids take the time of writing them twice and no more memory than one million.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.arrays import Int64Array
from recsys.errors import DataFileError
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.features.names import NAMES_SUFFIX, Names, names_head, open_names, write_sorted_names

NAMES = "names"
"""Folder of an event table that holds its names."""

_RUNS = ".runs"
_MERGED_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Collision:
    """Two texts of one table that have one key: nothing tells them apart."""

    table: str
    key: int
    texts: tuple[str, str]

    def __str__(self) -> str:
        """One sentence for people."""
        first, second = self.texts
        return (
            f"table {self.table!r}: {first!r} and {second!r} have one key, {self.key} (docs/specs/ids.md): they are "
            "taken for one id; rename one of them"
        )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct pairs, keys rising."""

    keys: Int64Array
    texts: pa.LargeBinaryArray

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.texts.nbytes)


@dataclass(slots=True)
class _Table:
    kept: _Pairs
    waiting: list[_Pairs] = field(default_factory=list)
    waiting_rows: int = 0
    runs: list[Path] = field(default_factory=list)


class NamesWriter:
    """Collects names of many tables, and writes a file for each.

    Args:
        folder: made here, if there are names, for ``<table>.names.bin``; what memory has no room for goes there, too.
        memory_bytes: of pairs kept in memory, of all tables together; 1 or more.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = 128 << 20) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._tables: dict[str, _Table] = {}
        self._collisions: dict[tuple[str, int], Collision] = {}

    def add(self, table: str, keys: Int64Array, texts: Sequence[str | None] | pa.Array) -> None:
        """Keep the texts of keys; pairs may repeat.

        Args:
            table: the embedding table of the feature that has the ids.
            keys: [N]; ``MISSING`` for none.
            texts: [N], strings or an Arrow array of them. None, what stands at a missing key, and what UTF-8 cannot
                express (a lone surrogate) are left out.
        """
        found = self._tables.setdefault(table, _Table(_NOTHING))
        binary = _binary(texts)
        present = np.flatnonzero((keys != MISSING) & binary.is_valid().to_numpy(zero_copy_only=False))
        if len(present) < len(keys):
            keys, binary = keys[present], binary.take(pa.array(present))
        if not len(keys):
            return
        new = self._not_kept(found.kept, _Pairs(keys, binary))
        if not len(new.keys):
            return
        new = self._merged(table, [new])
        found.waiting.append(new)
        found.waiting_rows += len(new.keys)
        # Merging when as much waits as is kept copies each pair about twice in all.
        if found.waiting_rows >= max(_MERGED_ROWS, len(found.kept.keys)):
            self._settle(table, found)
        if self._held_bytes() > self._memory_bytes:
            self._spill()

    def finish(self) -> tuple[Collision, ...]:
        """Write the files; returns the texts that had the key of another one.

        Raises:
            DataFileError: a file could not be written or read again.
        """
        try:
            if self._tables:
                self._folder.mkdir(exist_ok=True)
            for name, table in self._tables.items():
                self._settle(name, table)
                file = self._folder / f"{name}{NAMES_SUFFIX}"
                if table.runs:
                    self._write_run(name, table)
                    self._merge_runs(name, table, file)
                else:
                    _write(file, table.kept)
        except OSError as error:
            raise DataFileError(f"{self._folder}: the names of ids could not be written: {error}") from error
        shutil.rmtree(self._folder / _RUNS, ignore_errors=True)
        return tuple(self._collisions[place] for place in sorted(self._collisions))

    def _held_bytes(self) -> int:
        tables = self._tables.values()
        return sum(each.kept.nbytes + sum(part.nbytes for part in each.waiting) for each in tables)

    def _spill(self) -> None:
        try:
            for name, table in self._tables.items():
                self._settle(name, table)
                # Small tables stay: their values come in every batch.
                if table.kept.nbytes * len(self._tables) >= self._memory_bytes // 2:
                    self._write_run(name, table)
        except OSError as error:
            raise DataFileError(f"{self._folder}: the names of ids could not be written: {error}") from error

    def _settle(self, name: str, table: _Table) -> None:
        if table.waiting:
            table.kept = self._merged(name, [table.kept, *table.waiting])
            table.waiting, table.waiting_rows = [], 0

    def _write_run(self, name: str, table: _Table) -> None:
        if len(table.kept.keys):
            (self._folder / _RUNS).mkdir(parents=True, exist_ok=True)
            file = self._folder / _RUNS / f"{name}.{len(table.runs)}"
            _write(file, table.kept)
            table.runs.append(file)
            table.kept = _NOTHING

    def _merge_runs(self, name: str, table: _Table, file: Path) -> None:
        runs = [open_names(run, error=DataFileError, again="prepare the data again") for run in table.runs]
        size_bytes = sum(run.stat().st_size for run in table.runs)
        ranges = max(1, -(-4 * size_bytes // self._memory_bytes))
        parts = [self._folder / _RUNS / f"{name}.{part}" for part in ("keys", "begins", "utf8")]
        count, end = 0, 0
        with open(parts[0], "wb") as keys, open(parts[1], "wb") as begins, open(parts[2], "wb") as utf8:
            begins.write(np.zeros(1, dtype="<i8").tobytes())
            for number in range(ranges):  # keys are hashes, so that equal ranges hold about as many
                low, high = (KEY_LIMIT * edge // ranges for edge in (number, number + 1))
                merged = self._merged(name, [_between(run, low, high) for run in runs])
                offsets, data = _buffers(merged.texts)
                keys.write(merged.keys.astype("<i8").tobytes())
                begins.write((offsets[1:] + end).astype("<i8").tobytes())
                utf8.write(data)
                count, end = count + len(merged.keys), end + int(offsets[-1])
        with open(file, "wb") as out:
            out.write(names_head(count))
            for part in parts:
                with open(part, "rb") as written:
                    shutil.copyfileobj(written, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())

    def _not_kept(self, kept: _Pairs, pairs: _Pairs) -> _Pairs:
        if not len(kept.keys):
            return pairs
        rows = np.minimum(np.searchsorted(kept.keys, pairs.keys), len(kept.keys) - 1)
        # By their texts, which costs a comparison: another text of a kept key is new, and the merge says so.
        same = pc.equal(kept.texts.take(pa.array(rows)), pairs.texts)
        new = np.flatnonzero(~same.to_numpy(zero_copy_only=False))
        return _Pairs(pairs.keys[new], pairs.texts.take(pa.array(new)))

    def _merged(self, table: str, parts: Sequence[_Pairs]) -> _Pairs:
        """The distinct pairs of parts in any order, by key; of texts with one key the first in the alphabet."""
        keys = np.concatenate([part.keys for part in parts])
        texts = pa.concat_arrays([part.texts for part in parts])
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        repeats = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(repeats):
            before, after = (texts.take(pa.array(order[repeats + step])) for step in (0, 1))
            if not pc.all(pc.equal(before, after)).as_py():
                order = np.array(pc.sort_indices(pa.table({"key": keys, "text": texts}), sort_keys=_BY_KEY_AND_TEXT))
                self._collide(table, keys[order], texts.take(pa.array(order)))
            order = np.delete(order, repeats + 1)
        return _Pairs(keys[order], texts.take(pa.array(order)))

    def _collide(self, table: str, keys: Int64Array, texts: pa.LargeBinaryArray) -> None:
        for row in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
            if texts[row] != texts[row + 1]:
                both = tuple(texts[each].as_py().decode("utf-8", "replace") for each in (row, row + 1))
                key = int(keys[row])
                self._collisions.setdefault((table, key), Collision(table, key, (both[0], both[1])))


def open_table_names(folder: Path, features: FeatureSet) -> dict[str, Names]:
    """The names in a folder that :class:`NamesWriter` wrote, by table; none where there is no such folder.

    Raises:
        DataFileError: a file is damaged.
    """
    return {
        table: open_names(file, error=DataFileError, again="prepare the data again")
        for table in named_tables(features)
        if (file := folder / f"{table}{NAMES_SUFFIX}").exists()
    }


def named_tables(features: FeatureSet) -> tuple[str, ...]:
    """The embedding tables, or entities' tables, whose ids are strings, in declared order."""
    entities = [e for e in features.entities]
    declared = (*features.categoricals(), *(f for e in entities for f in (e.id, *e.features)))
    return tuple(dict.fromkeys(f.table for f in declared if isinstance(f, Categorical) and f.id_type == "string"))


def _binary(texts: Sequence[str | None] | pa.Array) -> pa.LargeBinaryArray:
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string()).cast(pa.large_binary())
    try:
        return pa.array(texts, pa.large_string()).cast(pa.large_binary())
    except UnicodeEncodeError:
        return pa.array([None if text is None else _utf8(text) for text in texts], pa.large_binary())


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _buffers(texts: pa.LargeBinaryArray) -> tuple[Int64Array, Any]:
    """Bounds of the texts, [N + 1], from 0; and their bytes."""
    if not len(texts):
        return np.zeros(1, dtype=np.int64), b""
    _, offsets, data = texts.buffers()
    begins = np.frombuffer(offsets, dtype=np.int64, count=len(texts) + 1, offset=8 * texts.offset)
    utf8 = memoryview(b"" if data is None else data)[int(begins[0]) : int(begins[-1])]
    return begins - begins[0], utf8


def _write(file: Path, pairs: _Pairs) -> None:
    write_sorted_names(file, pairs.keys, *_buffers(pairs.texts))


def _between(names: Names, low: int, high: int) -> _Pairs:
    """The pairs with low <= key < high."""
    first, end = np.searchsorted(names.keys_R, [low, high]).tolist()
    begins = names.begins[first : end + 1]
    data = pa.py_buffer(names.utf8[int(begins[0]) : int(begins[-1])])
    offsets = pa.py_buffer(np.ascontiguousarray(begins - begins[0], dtype=np.int64))
    texts = pa.Array.from_buffers(pa.large_binary(), end - first, [None, offsets, data])
    return _Pairs(np.asarray(names.keys_R[first:end], dtype=np.int64), texts)


_NOTHING = _Pairs(np.zeros(0, dtype=np.int64), pa.array([], pa.large_binary()))
_BY_KEY_AND_TEXT = [("key", "ascending"), ("text", "ascending")]
