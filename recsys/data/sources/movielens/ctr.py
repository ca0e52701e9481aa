"""MovieLens-1M as click prediction without history, split at random: what compressed tables are compared on.

Ratings above 3 are positive, below 3 negative, and 3 is left out (AutoInt, CIKM 2019), which leaves 739,012
samples with 575,281 positives. Unified Embedding (Coleman et al., NeurIPS 2023) splits them 80/10/10 at random;
the six fields are those of its open reproduction, lilyungg/unified-embeddings: 13,177 ids that occur. A random
split shows a model what a user rated later: the figures compare tables, and say nothing about tomorrow.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xxhash

from recsys.data.log.encoder import EntityIndex
from recsys.data.log.event_table import EncodedTable, encode_event_table
from recsys.data.prepared import prepared_dataset
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.stored import Impressions, Samples
from recsys.data.sources.raw_log import MOVIELENS_1M, RawLog
from recsys.errors import InvalidInputError
from recsys.features.columns import feature_keys
from recsys.features.feature_set import FeatureSet

MOVIELENS_CTR = FeatureSet(
    name="movielens_ctr",
    user_id=MOVIELENS_1M.user_id,
    item_id=MOVIELENS_1M.item_id,
    user=MOVIELENS_1M.user,
    history=None,
)
"""Six fields: user_id, gender, age, occupation, zip, movie_id. Genres, year and time are not read."""

_LEFT_OUT = 3
_SPLITS = ("train", "validation", "test")
_PREPARED_VERSION = 2


def prepare_movielens_ctr(raw: RawLog, folder: Path, *, seed: int = 0) -> Dataset:
    """Ratings as impressions over a table without events; written once per content of ``raw`` and seed.

    The split is a function of the seed and the *set* of ratings: not of the order they are given in.

    Args:
        raw: the log.
        folder: where prepared data is kept; this one's folder is named by a hash of its content.
        seed: of the permutation that is cut 80/10/10 (PCG64).

    Returns:
        The dataset, with keys. Its samples have no moment: their time is 0.

    Raises:
        InvalidInputError: no rating is other than 3, or one is of an unknown user or movie.
    """
    return prepared_dataset(folder / _content_hash(raw, seed), lambda: _encode(raw, seed))


def _encode(raw: RawLog, seed: int) -> tuple[EncodedTable, Samples]:
    users = {f.name: raw.users[f.name] for f in (MOVIELENS_CTR.user_id, *MOVIELENS_CTR.user)}
    items = {"movie_id": raw.items["movie_id"]}
    table = encode_event_table(MOVIELENS_CTR, users, items, {})
    chosen = np.flatnonzero(raw.rating != _LEFT_OUT)
    if len(chosen) == 0:
        raise InvalidInputError(f"no sample is left: expected ratings other than {_LEFT_OUT}")
    user_index = EntityIndex(feature_keys(MOVIELENS_CTR.user_id, users["user_id"]))
    item_index = EntityIndex(feature_keys(MOVIELENS_CTR.item_id, items["movie_id"]))
    user = user_index.find(MOVIELENS_CTR.user_id, raw.user[chosen])
    item = item_index.find(MOVIELENS_CTR.item_id, raw.item[chosen])
    rating = raw.rating[chosen]
    order = np.lexsort((rating, item, user))
    impressions = Impressions(
        user=user[order].astype(np.int32),
        item=item[order].astype(np.int32),
        time_ms=np.zeros(len(order), dtype=np.int64),
        context={},
    )
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(len(order))
    parts = np.split(shuffled, [len(order) * 8 // 10, len(order) * 9 // 10])
    return table, Samples(
        position=np.full(len(order), -1, dtype=np.int64),
        label=(rating[order] > _LEFT_OUT).astype(np.uint8),
        splits={name: np.sort(part) for name, part in zip(_SPLITS, parts, strict=True)},
        impressions=impressions,
    )


def _content_hash(raw: RawLog, seed: int) -> str:
    """16 hex digits that change when the log, its features, the seed or the way it is prepared do."""
    entities = json.dumps([dict(raw.users), list(raw.items["movie_id"])], default=lambda value: value.tolist())
    content = xxhash.xxh3_64(f"{_PREPARED_VERSION} {seed} {MOVIELENS_CTR.to_json()} {entities}".encode())
    for column in (raw.user, raw.item, raw.rating):
        content.update(np.ascontiguousarray(column).data)
    return content.hexdigest()
