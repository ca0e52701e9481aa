"""Names: the texts that string ids came from, by key. One kind of file, which processes share by mapping it.

A prepared folder and a bundle have such a file for each embedding table whose ids are strings. The bytes are in
``docs/specs/bundle.md``, "Names". ``R`` names of a file, ``K`` ids asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.errors import BundleError, DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import MISSING, string_key

NAMES_SUFFIX = ".names.bin"
"""A table's names are in the file ``<table>.names.bin``."""

ITEM_NAMES = f"tables/item_id{NAMES_SUFFIX}"
"""File of a retrieval bundle that holds its items' names."""

_MAGIC = b"RSN1"
_VERSION = 1
_HEAD = np.dtype([("magic", "S4"), ("version", "<u4"), ("count", "<u8")])


@dataclass(frozen=True, slots=True)
class UnknownText:
    """A string id of which only the 62-bit key is known.

    >>> str(UnknownText(7))
    'key 7 (text unknown)'
    """

    key: int

    def __str__(self) -> str:
        """Text for people; no id is shown like this by accident, as it has the key."""
        return f"key {self.key} (text unknown)"


@dataclass(frozen=True, slots=True)
class Names:
    """Names in the order of their keys; made by :func:`open_names`.

    Attributes:
        keys_R: rising, int64.
        begins: where each name begins, and where the last one ends; [R + 1], int64.
        utf8: all names, one behind another.
        check: called after names were read; raises if their file is not what it was.
    """

    keys_R: Int64Array
    begins: Int64Array
    utf8: memoryview
    check: Callable[[], None] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        """R."""
        return len(self.keys_R)

    def checked(self, check: Callable[[], None]) -> Names:
        """The same names, which say by ``check`` if their file is not what it was."""
        return replace(self, check=check)

    def find(self, keys_K: npt.NDArray[Any]) -> list[str | None]:
        """The names of keys, None for a key that has none. What is no UTF-8 is replaced by U+FFFD."""
        if not len(self.keys_R):
            return [None] * len(keys_K)
        rows = np.minimum(np.searchsorted(self.keys_R, keys_K), len(self.keys_R) - 1)
        known = (self.keys_R[rows] == keys_K).tolist()
        begins, ends = self.begins[rows].tolist(), self.begins[rows + 1].tolist()
        found = [
            str(self.utf8[begin:end], "utf-8", "replace") if there else None
            for begin, end, there in zip(begins, ends, known, strict=True)
        ]
        if self.check is not None:
            self.check()
        return found

    def of(self, keys_K: npt.NDArray[Any]) -> list[str]:
        """The names of keys, each of which must have one."""
        texts = [text for text in self.find(keys_K) if text is not None]
        assert len(texts) == len(keys_K), "a key without a name"
        return texts


def shown_ids(feature: Categorical, keys_K: npt.NDArray[Any], names: Names | None) -> list[int | str | UnknownText]:
    """Ids as people know them: integers, or texts as far as these are known.

    Args:
        feature: whose ids these are.
        keys_K: keys, none of them missing.
        names: of the feature's table; None where none were kept.
    """
    keys: list[int] = keys_K.tolist()
    if feature.id_type == "int":
        return list(keys)
    found = [None] * len(keys) if names is None else names.find(keys_K)
    return [UnknownText(key) if text is None else text for key, text in zip(keys, found, strict=True)]


def shown_value(feature: Feature, value: Any, names: Mapping[str, Names]) -> str:
    """One value of a feature for people: a number, an id, or ids one behind another; ``missing`` for none.

    Args:
        feature: whose value it is.
        value: a number, a key, or an array of keys.
        names: of each table that has some.
    """
    if not isinstance(feature, Categorical):
        return "missing" if np.isnan(value) else f"{value:.4g}"
    keys = np.atleast_1d(value)
    present = keys[keys != MISSING]
    return ", ".join(str(each) for each in shown_ids(feature, present, names.get(feature.table))) or "missing"


def keyed_texts(*groups: Iterable[str]) -> dict[int, str]:
    """Texts of string ids by their keys; the empty text stands for no id.

    >>> keyed_texts(["a", ""], ["a"])
    {4157258607972684679: 'a'}
    """
    texts = {text for group in groups for text in group if text}
    return {string_key(text): text for text in texts}


def write_names(file: Path, keys: Int64Array, texts: Sequence[str]) -> None:
    """Write names; pairs of key and text in any order, repeated or not.

    Raises:
        InvalidInputError: two texts have one key; both are named.
        UnicodeEncodeError: one has a lone surrogate, which UTF-8 cannot express.
    """
    named = dict(sorted(zip(keys.tolist(), texts, strict=True)))
    for key, text in zip(keys.tolist(), texts, strict=True):
        if named[key] != text:
            raise InvalidInputError(
                f"{text!r} and {named[key]!r} have one key, {key} (docs/specs/ids.md): nothing would tell them apart; "
                "rename one of them"
            )
    utf8 = [text.encode() for text in named.values()]
    begins = np.zeros(len(utf8) + 1, dtype="<i8")
    np.cumsum([len(name) for name in utf8], out=begins[1:])
    write_sorted_names(file, np.array(list(named), dtype="<i8"), begins, b"".join(utf8))


def write_sorted_names(file: Path, keys_R: Int64Array, begins: Int64Array, utf8: Any) -> None:
    """Write what :class:`Names` holds, ``keys_R`` rising; ``utf8``: bytes, or an array of them."""
    with open(file, "wb") as out:
        out.write(names_head(len(keys_R)))
        for part in (keys_R, begins):
            out.write(np.ascontiguousarray(part, dtype="<i8").data if part.size else b"")
        out.write(utf8)
        out.flush()
        os.fsync(out.fileno())


def names_head(count: int) -> bytes:
    """The first bytes of a file of so many names."""
    return np.array((_MAGIC, _VERSION, count), dtype=_HEAD).tobytes()


def open_names(
    file: Path, *, error: type[BundleError | DataFileError] = BundleError, again: str = "export the bundle again"
) -> Names:
    """Map the names of a file: opening costs the same for a thousand and for a billion.

    Args:
        file: to open.
        error: what to raise, and ``again`` what its message asks for.

    Raises:
        BundleError: the file is missing, cut short or no file of names. Or ``error``.
    """
    try:
        stored = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    except (OSError, ValueError) as problem:  # ValueError: it is empty
        raise error(f"{file}: cannot be read: {problem}; {again}") from problem
    if len(stored) < _HEAD.itemsize or bytes(stored[:4]) != _MAGIC:
        raise error(f"{file}: expected names, which begin with {_MAGIC!r}; found {bytes(stored[:4])!r}: {again}")
    head = stored[: _HEAD.itemsize].view(_HEAD)[0]
    if head["version"] != _VERSION:
        raise error(f"{file}: names of format {head['version']}; this program reads format {_VERSION}: {again}")
    count = int(head["count"])
    begins_at = _HEAD.itemsize + 8 * count
    utf8_at = begins_at + 8 * (count + 1)
    if len(stored) < utf8_at:
        raise error(f"{file}: has {len(stored):,} bytes; expected {utf8_at:,} and the names of {count:,} ids: {again}")
    begins = stored[begins_at:utf8_at].view("<i8")
    name_bytes = len(stored) - utf8_at
    if begins[0] != 0 or begins[-1] != name_bytes:
        raise error(
            f"{file}: has {name_bytes:,} bytes of names, which are to begin at {begins[0]:,} and to end at "
            f"{begins[-1]:,}; expected 0 and {name_bytes:,}: {again}"
        )
    return Names(stored[_HEAD.itemsize : begins_at].view("<i8"), begins, stored.data[utf8_at:])
