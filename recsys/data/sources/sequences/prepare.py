"""Item sequences with item attributes, split leave-one-out, ranked among 100 candidates: the sets of S3-Rec.

S3-Rec (Zhou et al., CIKM 2020, arXiv 2008.07873) publishes five sets of one form: each user's items, oldest
first, without times, and each item's attributes. A user's last item is for test and the one before for
validation, each beside 99 items that the user never had. LastFM's 99 for test are published; all others are
drawn here, uniformly, by a seed. A place in the sequence stands for the time, so that a history is what came before.

A training sample is an item of the sequence but its first, and ``NEGATIVES`` items drawn for it once, uniformly from
those that the user did not have *in training*: the items of validation and test may be among them, as they may in
service. A user with fewer than three items is trained on and nothing else.

``U`` users, ``I`` items, ``N`` items of all sequences, ``R`` places to draw for, ``K`` drawn at each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from recsys.arrays import BoolArray, Int64Array
from recsys.data.log.event_table import EncodedTable, encode_event_table, offsets_of
from recsys.data.prepared import prepared_dataset
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.histories import ranges
from recsys.data.samples.stored import Impressions, Samples
from recsys.data.sources.sequences.files import Sequences, read_sequences
from recsys.errors import DataFileError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING

NEGATIVES = 4
"""Drawn for each training sample that happened."""

CANDIDATES = 100
"""Of each item of validation and test, itself included."""

ATTRIBUTES = 16
"""An item's attributes that are read: those it lists most often (LastFM's repeat), ties as listed."""

_NEARBY = Path("../shared/data")
_FILES = {
    "beauty_sequences": "Beauty",
    "lastfm_sequences": "LastFM",
    "sports_sequences": "Sports_and_Outdoors",
    "toys_sequences": "Toys_and_Games",
    "yelp_sequences": "Yelp",
}
_MAIN = Categorical(name="main_attribute", table="attribute")
_PREPARED_VERSION = 1


def sequence_features(name: str) -> FeatureSet:
    """FeatureSet of one of the sets; an event's attribute is its item's first."""
    return FeatureSet(
        name=name,
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        item=(_MAIN, Categorical(name="attributes", max_values=ATTRIBUTES, table="attribute")),
        history=History(attributes=(_MAIN,), max_events=1000, recent=50),
    )


def prepare_sequences(name: str, path: Path | None, folder: Path, *, seed: int = 0) -> Dataset:
    """One of the sets as impressions beside the events of all sequences; written once per content and seed.

    Places, the first of which counts: ``path``; what ``RECSYS_DATA_DIR`` names; ``../shared/data``. Each may be
    the folder of the files (gzipped or not), or hold it as ``s3rec_sequences``.

    Args:
        name: such as ``lastfm_sequences``.
        path: where the data set is.
        folder: where prepared data is kept; this one's folder is named by a hash of its content.
        seed: of what is drawn (PCG64).

    Returns:
        The dataset, with keys. Times are places in the sequence, in milliseconds, from 1.

    Raises:
        DataFileError: the data set is not there, a file of it is malformed, or a user had so many of the items
            that too few are left to draw.
    """
    found = read_sequences(_folder_of(_FILES[name], path), _FILES[name])
    features = sequence_features(name)
    return prepared_dataset(folder / _content_hash(found, features, seed), lambda: _encode(found, features, seed))


def _folder_of(file: str, path: Path | None) -> Path:
    given = os.environ.get("RECSYS_DATA_DIR")
    place = path or (Path(given) if given else _NEARBY)
    for folder in (place, place / "s3rec_sequences"):
        if any((folder / f"{file}.txt{end}").is_file() for end in ("", ".gz")):
            return folder
    raise DataFileError(
        f"{place}: holds no {file}.txt; expected the folder of S3-Rec's data, gzipped or not, or a folder with it "
        "as s3rec_sequences; name it, or set RECSYS_DATA_DIR"
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """Impressions of one split: R rows of K items, of which the first is the one that happened."""

    user_R: Int64Array
    time_R: Int64Array
    items_RK: Int64Array


def _encode(found: Sequences, features: FeatureSet, seed: int) -> tuple[EncodedTable, Samples]:
    items, item_N = np.unique(found.item, return_inverse=True)
    user_N, time_N = _places(found)
    attributes = [_ranked(found.attributes.get(int(item), ())) for item in items]
    table = encode_event_table(
        features,
        {"user_id": found.user},
        {
            "item_id": items,
            "main_attribute": np.array([a[0] if a else MISSING for a in attributes], dtype=np.int64),
            "attributes": attributes,
        },
        {"user_id": found.user[user_N], "item_id": items[item_N], "timestamp_ms": time_N},
    )
    return table, _samples(_split(found, items, item_N.astype(np.int64), seed))


def _places(found: Sequences) -> tuple[Int64Array, Int64Array]:
    """Of each item of each sequence the user's number, from 0, and the time, from 1; [N] each."""
    lengths_U = np.diff(found.offsets)
    times, offsets = ranges(np.ones_like(lengths_U), lengths_U)
    return np.repeat(np.arange(len(lengths_U)), np.diff(offsets)), times


def _split(found: Sequences, items: Int64Array, item_N: Int64Array, seed: int) -> dict[str, _Shown]:
    user_N, time_N = _places(found)
    lengths_U = np.diff(found.offsets)
    left_N = lengths_U[user_N] - time_N  # items of the user that follow
    held_out_N = (lengths_U[user_N] >= 3) & (left_N < 2)
    seen_N, trained_N = user_N * len(items) + item_N, ~held_out_N
    random = np.random.Generator(np.random.PCG64(seed))

    def shown(rows: BoolArray, seen: Int64Array, count: int) -> _Shown:
        drawn_RK = draw_unseen(user_N[rows], seen=np.unique(seen), items=len(items), count=count, random=random)
        return _Shown(user_N[rows], time_N[rows], np.concatenate([item_N[rows, None], drawn_RK], axis=1))

    train = shown(trained_N & (time_N > 1), seen_N[trained_N], NEGATIVES)
    validation = shown(held_out_N & (left_N == 1), seen_N, CANDIDATES - 1)
    test_N = held_out_N & (left_N == 0)
    if found.negatives is None:
        return {"train": train, "validation": validation, "test": shown(test_N, seen_N, CANDIDATES - 1)}
    published_UK = np.searchsorted(items, found.negatives)
    items_RK = np.concatenate([item_N[test_N, None], published_UK[user_N[test_N]]], axis=1)
    return {"train": train, "validation": validation, "test": _Shown(user_N[test_N], time_N[test_N], items_RK)}


def draw_unseen(
    user_R: Int64Array, *, seen: Int64Array, items: int, count: int, random: np.random.Generator
) -> Int64Array:
    """For each row ``count`` different items that its user has not seen, uniformly; [R, count], int64.

    Args:
        user_R: the rows' users.
        seen: user * items + item of what was seen, ascending.
        items: how many there are.
        count: how many to draw for a row.
        random: where they come from.

    Raises:
        DataFileError: a user has seen so many that fewer than ``count`` are left.

    >>> draw_unseen(np.array([0, 1]), seen=np.array([1, 3]), items=3, count=2, random=np.random.default_rng(0)).tolist()
    [[0, 2], [1, 2]]
    """
    left_U = items - np.bincount(seen // items, minlength=int(user_R.max(initial=0)) + 1)
    if (short := left_U[user_R] < count).any():
        user = int(user_R[np.argmax(short)])
        raise DataFileError(
            f"user number {user + 1}: had all but {left_U[user]} of {items} items; expected {count} to draw from"
        )
    drawn_RK = random.integers(items, size=(len(user_R), count))
    rows = np.arange(len(user_R))
    while len(rows):
        # Sorted, equal items are neighbours; the order of a row's items means nothing.
        block = np.sort(drawn_RK[rows], axis=1)
        pairs = user_R[rows, None] * items + block
        place = np.minimum(np.searchsorted(seen, pairs), max(len(seen) - 1, 0))
        wrong = seen[place] == pairs if len(seen) else np.zeros(pairs.shape, dtype=bool)
        wrong[:, 1:] |= block[:, 1:] == block[:, :-1]
        block[wrong] = random.integers(items, size=int(wrong.sum()))
        drawn_RK[rows] = block
        rows = rows[wrong.any(axis=1)]
    return drawn_RK


def _samples(splits: Mapping[str, _Shown]) -> Samples:
    user = np.concatenate([np.repeat(s.user_R, s.items_RK.shape[1]) for s in splits.values()])
    time_ms = np.concatenate([np.repeat(s.time_R, s.items_RK.shape[1]) for s in splits.values()])
    item = np.concatenate([s.items_RK.ravel() for s in splits.values()])
    label = np.concatenate([(np.arange(s.items_RK.size) % s.items_RK.shape[1] == 0) for s in splits.values()])
    order = np.lexsort((item, time_ms, user))  # impressions lie by user and time
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    ends = offsets_of(np.array([s.items_RK.size for s in splits.values()]))
    return Samples(
        position=np.full(len(order), -1, dtype=np.int64),
        label=label[order].astype(np.uint8),
        splits={name: np.sort(place[ends[n] : ends[n + 1]]) for n, name in enumerate(splits)},
        impressions=Impressions(
            user=user[order].astype(np.int32),
            item=item[order].astype(np.int32),
            time_ms=time_ms[order].astype(np.int64),
            context={},
        ),
    )


def _ranked(listed: tuple[int, ...]) -> list[int]:
    """Distinct attributes, the ones listed most often first, ties as listed; at most ``ATTRIBUTES``."""
    counts = dict.fromkeys(listed, 0)
    for attribute in listed:
        counts[attribute] += 1
    return sorted(counts, key=lambda attribute: -counts[attribute])[:ATTRIBUTES]


def _content_hash(found: Sequences, features: FeatureSet, seed: int) -> str:
    """16 hex digits that change when the sequences, their features, the seed or the way they are prepared do."""
    drawn = f"{seed} {NEGATIVES} {CANDIDATES}"
    attributes = sorted(found.attributes.items())
    content = xxhash.xxh3_64(f"{_PREPARED_VERSION} {drawn} {features.to_json()} {attributes}".encode())
    for column in (found.user, found.offsets, found.item, found.negatives):
        if column is not None:
            content.update(f"{column.shape}".encode())
            content.update(np.ascontiguousarray(column).data)
    return content.hexdigest()
