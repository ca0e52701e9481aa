"""Ids of the users and items of pairs: their keys, and names where ids are texts.

Legend: ``N`` users, ``M`` items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, IdType
from recsys.features.hashing import KEY_LIMIT, equal_keys, string_keys

_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairIds:
    """Ids by index.

    Attributes:
        features: declares the two ids, and the history that a store keeps of what users do.
        user_keys_N, item_keys_M: the key (``features/hashing.py``) of each index; distinct, int64.
        item_names_M: the texts that the items' keys are of; None where items are named by integers.

    Raises:
        InvalidInputError: there are not as many names as keys, or names of integers.
    """

    features: FeatureSet
    user_keys_N: Int64Array
    item_keys_M: Int64Array
    item_names_M: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        expected = len(self.item_keys_M) if self.features.item_id.id_type == "string" else 0
        if (found := len(self.item_names_M or ())) != expected:
            raise InvalidInputError(
                f"item_names_M: {found:,} names of {len(self.item_keys_M):,} items, which take "
                f"{self.features.item_id.id_type} ids; expected {expected:,}"
            )


def pair_features(name: str, user_type: IdType, item_type: IdType) -> FeatureSet:
    """The FeatureSet of pairs: the two ids, and the default history."""
    return FeatureSet(
        name=name,
        user_id=Categorical(name="user_id", id_type=user_type),
        item_id=Categorical(name="item_id", id_type=item_type),
    )


def parse_ids(path: Path, text: bytes, count: int) -> tuple[IdType, Int64Array, tuple[str, ...] | None]:
    """A list of ids: a line of headings, then ``id index``.

    Args:
        path: of the list, for messages.
        text: of the list.
        count: indices from 0 up to this are looked for; others do not matter.

    Returns:
        The ids' kind, their keys, and their texts if they are texts.

    Raises:
        DataFileError: a line is malformed, an index has no id, or two ids are the same or have the same key.
    """
    ids: dict[int, str] = {}
    for number, line in enumerate(text.splitlines()[1:], start=2):
        try:
            fields = line.decode().split()
        except UnicodeDecodeError:
            raise DataFileError(f"{path}: line {number}: expected UTF-8, found {line[:80]!r}") from None
        if len(fields) != 2 or not fields[1].isdecimal():
            raise DataFileError(f"{path}: line {number}: expected an id and its index, found {' '.join(fields)[:80]!r}")
        ids[int(fields[1])] = fields[0]
    if missing := [index for index in range(count) if index not in ids]:
        raise DataFileError(f"{path}: no id of index {missing[0]}; expected the ids of 0 to {count - 1}")
    own = [ids[index] for index in range(count)]
    if len(set(own)) < count:
        raise DataFileError(f"{path}: two indices below {count} have one id; expected distinct ids")
    # Others are texts: of an integer that is not its own key nobody could tell it again.
    if all(_INTEGER.fullmatch(each) and int(each) < KEY_LIMIT for each in own):
        return "int", np.array(own, dtype=np.int64), None
    keys = string_keys(own)
    if (equal := equal_keys(keys)) is not None:
        first, second = (own[place] for place in equal)
        raise DataFileError(
            f"{path}: {first!r} and {second!r} have one key, {keys[equal[0]]} (docs/specs/ids.md): nothing "
            "would tell them apart; rename one of them"
        )
    return "string", keys, tuple(own)
