"""User-item interactions with splits, for models that rank all items.

Reads the text format of NGCF, LightGCN and their successors: ``train.txt`` and ``test.txt``, one line per user, ``user
item item ...``, ids from 0, gzip-compressed or not. A published ``valid.txt`` is the validation split; where there is
none, a random tenth of each user's training interactions is held out (at least one of a user who has two or more),
drawn with a seed. ``user_list.txt`` and ``item_list.txt``, if they are there, say which id each index stands for (a
line of headings, then ``id index``). The split of GraphHash (WWW 2025) is not public: these are the published train and
test files with our validation part, so figures are not comparable with that paper's to the last digit.

Legend: ``E`` interactions, ``N`` users.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds, pair_features, parse_ids
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.columns import Column
from recsys.features.feature_set import IdType

_EXPECTED = "user item item ... (integers from 0)"
_NEARBY = Path("../shared/data")

VALIDATION_SHARE = 0.1
"""Of each user's training pairs that are held out, unless another share is asked for."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct (user, item) pairs in order of user, then item.

    Attributes:
        user_E, item_E: indices, int64.
        weight_E: of each in training, above 0, float32; None: all are 1.
        time_ms_E: of its newest event, milliseconds since 1970, int64; None: not known.
    """

    user_E: Int64Array
    item_E: Int64Array
    weight_E: Float32Array | None = None
    time_ms_E: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.user_E)

    def where(self, chosen_E: BoolArray) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            self.user_E[chosen_E],
            self.item_E[chosen_E],
            None if self.weight_E is None else self.weight_E[chosen_E],
            None if self.time_ms_E is None else self.time_ms_E[chosen_E],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """Pairs of users and items in three disjoint parts.

    Attributes:
        num_users, num_items: indices are below these.
        train, validation, test: no pair is in two of them.
        source: where it came from, for reports.
        ids: None: an index is its own id (:func:`ids_of`).
        fresh_E: which training pairs a step may draw, bool; the others are known, but were learnt before
            (``data.since``). None: all.
        notes: a sentence each on what was left out.
        histories: ``validation``, ``test`` -> the events of users before that part; not there: pairs are all there is.
            ``train``, where events grow too old (``history.max_age_s``): those before validation, of any age.
        user_columns, item_columns: feature of users, of items -> its column, N = users, N = items: keys, numbers.
        candidates: ``validation``, ``test`` -> lists of sampled candidates, where the data has a list a user.
    """

    num_users: int
    num_items: int
    train: Pairs
    validation: Pairs
    test: Pairs
    source: str
    ids: PairIds | None = None
    fresh_E: BoolArray | None = None
    notes: tuple[str, ...] = ()
    histories: Mapping[str, UserEvents] = field(default_factory=dict)
    user_columns: Mapping[str, Column] = field(default_factory=dict)
    item_columns: Mapping[str, Column] = field(default_factory=dict)
    candidates: Mapping[str, CandidateLists] = field(default_factory=dict)


def ids_of(interactions: Interactions) -> PairIds:
    """Ids of the indices; of interactions without ids, the integers that they are."""
    return interactions.ids or PairIds(
        features=pair_features("interactions", "int", "int"),
        user_keys_N=np.arange(interactions.num_users),
        item_keys_M=np.arange(interactions.num_items),
    )


def find_interactions(name: str, path: Path | None = None) -> Path:
    """The folder of a data set: ``path``, or a folder of it; what ``RECSYS_DATA_DIR`` names; ``../shared/data``.

    Args:
        name: the data set's folder among the data, such as ``gowalla``; with ``./`` or ``/`` first, the folder itself.
        path: where to look first.

    Raises:
        DataFileError: no place has a train file.
    """
    if name.startswith((".", "/")):
        places = [Path(name)]
    elif path is not None:
        places = [path, path / name]
    else:
        given = os.environ.get("RECSYS_DATA_DIR")
        places = [Path(given) / name, Path(given)] if given else [_NEARBY / name]
    for place in places:
        if any((place / f"train.txt{suffix}").exists() for suffix in (".gz", "")):
            return place
    raise DataFileError(
        f"no train.txt.gz in {' or '.join(map(str, places))}; give the folder of a log (`recsys prepare`) with "
        "data.dataset=./FOLDER, the published set's folder with --data, or set RECSYS_DATA_DIR"
    )


def make_pairs(
    user_E: Int64Array,
    item_E: Int64Array,
    *,
    weight_E: Float32Array | None = None,
    time_ms_E: Int64Array | None = None,
) -> Pairs:
    """Sort pairs and drop repeated ones; a pair has the largest weight and the newest time of its events.

    Raises:
        InvalidInputError: lengths differ, or an index is negative.

    >>> make_pairs(np.array([1, 0, 1, 1]), np.array([5, 2, 3, 5]))
    Pairs(user_E=array([0, 1, 1]), item_E=array([2, 3, 5]), weight_E=None, time_ms_E=None)
    """
    if user_E.shape != item_E.shape or user_E.ndim != 1:
        raise InvalidInputError(f"{list(user_E.shape)} users for {list(item_E.shape)} items; both must be [E]")
    if len(user_E) and (low := int(min(user_E.min(), item_E.min()))) < 0:
        raise InvalidInputError(f"an index is {low}; allowed: 0 or more")
    user_E, item_E = user_E.astype(np.int64), item_E.astype(np.int64)
    order = np.lexsort((item_E, user_E))
    user_E, item_E = user_E[order], item_E[order]
    new = np.ones(len(user_E), dtype=np.bool_)
    new[1:] = (user_E[1:] != user_E[:-1]) | (item_E[1:] != item_E[:-1])
    first = np.flatnonzero(new)

    def largest(of_E: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.maximum.reduceat(of_E[order], first) if len(first) else of_E[:0]

    return Pairs(
        user_E[new],
        item_E[new],
        None if weight_E is None else largest(weight_E),
        None if time_ms_E is None else largest(time_ms_E),
    )


def without(pairs: Pairs, others: Pairs) -> Pairs:
    """Pairs that are not among others."""
    width = 1 + max(int(pairs.item_E.max(initial=0)), int(others.item_E.max(initial=0)))
    return pairs.where(~np.isin(pairs.user_E * width + pairs.item_E, others.user_E * width + others.item_E))


def joined(pairs: Pairs, others: Pairs) -> Pairs:
    """The pairs of both; one without weights weighs 1; times are known where both know them."""
    weights = [np.ones(len(each), np.float32) if each.weight_E is None else each.weight_E for each in (pairs, others)]
    times = [each.time_ms_E for each in (pairs, others) if each.time_ms_E is not None]
    return make_pairs(
        np.concatenate([pairs.user_E, others.user_E]),
        np.concatenate([pairs.item_E, others.item_E]),
        weight_E=None if pairs.weight_E is others.weight_E is None else np.concatenate(weights),
        time_ms_E=np.concatenate(times) if len(times) == 2 else None,
    )


def load_interactions(
    folder: Path, *, name: str = "interactions", validation_share: float = VALIDATION_SHARE, seed: int = 0
) -> Interactions:
    """Read a folder of ``train.txt[.gz]``, ``test.txt[.gz]`` and perhaps ``valid.txt[.gz]`` and lists of ids.

    Args:
        folder: where they are.
        name: of the FeatureSet that declares the ids.
        validation_share: as in :func:`hold_out`; without effect if there is a ``valid.txt``, which a note says.
        seed: of the draw.

    Raises:
        DataFileError: a file is absent, damaged, or a line is malformed; or a pair is in two of the files.
    """
    train, test, validation = _read(folder, "train"), _read(folder, "test"), _read_if_there(folder, "valid")
    parts = [train, test] if validation is None else [train, test, validation]
    users = max(int(part.user_E.max(initial=-1)) for part in parts) + 1
    items = max(int(part.item_E.max(initial=-1)) for part in parts) + 1
    keys = np.sort(np.concatenate([part.user_E * items + part.item_E for part in parts]))
    if (twice := keys[1:][keys[1:] == keys[:-1]]).size:
        user, item = divmod(int(twice[0]), items)
        raise DataFileError(
            f"{folder}: user {user} has item {item} in two of the files; expected disjoint files "
            f"({twice.size} pairs are in two)"
        )
    notes = () if validation is None else unused_share(validation_share)
    if validation is None:
        train, validation = hold_out(train, share=validation_share, seed=seed)
    user_type, user_keys, _ = _read_ids(folder, "user", users)
    item_type, item_keys, item_names = _read_ids(folder, "item", items)
    return Interactions(
        num_users=users,
        num_items=items,
        train=train,
        validation=validation,
        test=test,
        source=str(folder),
        ids=PairIds(
            features=pair_features(name, user_type, item_type),
            user_keys_N=user_keys,
            item_keys_M=item_keys,
            item_names_M=item_names,
        ),
        notes=notes,
    )


def unused_share(share: float) -> tuple[str, ...]:
    """A note on a share, not the default and not 0, of data that has a validation part of its own."""
    if share in (VALIDATION_SHARE, 0.0):
        return ()
    return (f"data.validation_share {share} is without effect: the data has a validation part of its own",)


def hold_out(pairs: Pairs, *, share: float, seed: int, newest: bool = False) -> tuple[Pairs, Pairs]:
    """Split off a random share of each user's pairs, or the newest.

    A user with n >= 2 pairs gives round(share * n) of them (halves to even), at least 1 and at most n - 1; a user with
    one pair keeps it.

    Args:
        pairs: what to split.
        share: from 0 (nothing is held out) to below 1.
        seed: of the draw.
        newest: by the times of the pairs, which must be known, in place of a draw.

    Returns:
        What is kept, and what is held out.

    Raises:
        InvalidInputError: the share is out of range.
    """
    if not 0.0 <= share < 1.0:
        raise InvalidInputError(f"share is {share}; allowed: 0 to below 1")
    if share == 0.0 or not len(pairs):
        return pairs, pairs.where(np.zeros(len(pairs), dtype=np.bool_))
    counts_N = np.bincount(pairs.user_E)
    held_N = np.where(counts_N >= 2, np.clip(np.rint(share * counts_N), 1, np.maximum(counts_N - 1, 1)), 0)
    random_E = np.random.Generator(np.random.PCG64(seed)).random(len(pairs))
    if newest:
        assert pairs.time_ms_E is not None
        order = np.lexsort((random_E, -pairs.time_ms_E, pairs.user_E))
    else:
        order = np.lexsort((random_E, pairs.user_E))
    first_N = np.cumsum(counts_N) - counts_N
    rank_E = np.empty(len(pairs), dtype=np.int64)  # of the pair's place in that order within its user
    rank_E[order] = np.arange(len(pairs)) - first_N[pairs.user_E]
    held_E = rank_E < held_N[pairs.user_E]
    return pairs.where(~held_E), pairs.where(held_E)


def _read(folder: Path, name: str) -> Pairs:
    pairs = _read_if_there(folder, name)
    if pairs is None:
        raise DataFileError(f"{folder}: has neither {name}.txt.gz nor {name}.txt; expected lines {_EXPECTED}")
    return pairs


def _read_if_there(folder: Path, name: str) -> Pairs | None:
    for path in (folder / f"{name}.txt.gz", folder / f"{name}.txt"):
        if path.exists():
            return _parse(path, _bytes(path))
    return None


def _read_ids(folder: Path, side: str, count: int) -> tuple[IdType, Int64Array, tuple[str, ...] | None]:
    """The kind of a side's ids, the key of each index, and its text if it is one; integers where there is no list."""
    for path in (folder / f"{side}_list.txt.gz", folder / f"{side}_list.txt"):
        if path.exists():
            return parse_ids(path, _bytes(path), count)
    return "int", np.arange(count), None


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise DataFileError(f"{path}: not a gzip file: {error}") from error
        raise DataFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (EOFError, zlib.error) as error:
        raise DataFileError(f"{path}: damaged or cut short; expected a complete gzip file: {error}") from error


def _parse(path: Path, text: bytes) -> Pairs:
    users: list[int] = []
    counts: list[int] = []
    items: list[int] = []
    line_of: dict[int, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if not all(field.isdigit() and len(field) <= 9 for field in fields):
            shown = line[:80].decode("latin-1")
            raise DataFileError(f"{path}: line {number}: expected {_EXPECTED}, found {shown!r}")
        user, *own = map(int, fields)
        if (first := line_of.setdefault(user, number)) != number:
            raise DataFileError(f"{path}: line {number}: expected a new user, found {user}, which line {first} has")
        users.append(user)
        counts.append(len(own))
        items += own
    user_E = np.repeat(np.array(users, dtype=np.int64), np.array(counts, dtype=np.int64))
    pairs = make_pairs(user_E, np.array(items, dtype=np.int64))
    if not len(pairs):
        raise DataFileError(f"{path}: holds no interactions; expected lines {_EXPECTED}")
    return pairs
