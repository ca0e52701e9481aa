"""Retrieval bundles of given vectors, and what they must answer by definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Certificate, IndexInfo, Manifest, Measured, bundle_writer
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.export.retrieval.by_history.linear.graph import HistoryTables, write_history_graph
from recsys.export.retrieval.by_history.linear.item_graph import write_item_graph
from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
from recsys.export.retrieval.segments import Segments, add_segments
from recsys.export.retrieval.shared_users.add import SharedUsers, add_shared_users
from recsys.export.retrieval.similar import add_similar
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import string_keys
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.attributes import AttributeRows, Encoding
from recsys.models.retrieval.history_weights import HistoryWeights
from support.tiny_bundle import BY_HAND

HISTORY_FEATURES = FeatureSet(
    name="tiny",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    history=History(attributes=(Categorical(name="rating", storage="u8"),)),
)
"""The ids and the history of ``tiny_bundle.FEATURES``, for bundles that know users by it."""

GENRE_FEATURES = replace(
    HISTORY_FEATURES, item=(Categorical(name="genres", max_values=3), Numeric(name="price", default=0.0))
)
"""The same with attributes of items: up to three genres, a price."""

FEATURES = FeatureSet(
    name="tiny", user_id=Categorical(name="user_id"), item_id=Categorical(name="item_id"), history=None
)
"""The ids of ``tiny_bundle.FEATURES``: the two bundles may be served together."""

TEXT_FEATURES = replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))
"""The same with items named by strings."""

USERS = 6


def tiny_tables(items: int = 20) -> RetrievalTables:
    """Users 1 to 6 and items 1 to ``items``. User u's score of item i is (u i) mod 7; items are as popular as late."""
    user, item = np.arange(1, USERS + 1), np.arange(1, items + 1)
    scores_UM = (user[:, None] * item % 7).astype(np.float32)
    return RetrievalTables(
        user_keys=user,
        users_ND=np.eye(USERS, dtype=np.float32),
        item_keys=item,
        items_MD=np.ascontiguousarray(scores_UM.T),
        popularity_M=item.astype(np.float32),
    )


def tiny_text_tables(items: int = 20) -> RetrievalTables:
    """:func:`tiny_tables` whose item i is named "Nº i"."""
    names = [f"Nº {i}" for i in range(1, items + 1)]
    return replace(tiny_tables(items), item_keys=string_keys(names), item_names_M=names)


def tiny_log(tables: RetrievalTables, *, users: int = 40, more_items: int = 0) -> Interactions:
    """Random pairs of users 1001 and up with the tables' items but the last, and with so many that these have not."""
    random = np.random.default_rng(3)
    keys = np.concatenate([tables.item_keys, 10**6 + np.arange(more_items)])
    user, item = random.integers(0, users, 6 * users), random.integers(0, len(keys), 6 * users)
    pairs = make_pairs(user, item)
    pairs = pairs.where(pairs.item_E != len(tables.item_keys) - 1)
    nothing = pairs.where(np.zeros(len(pairs), dtype=np.bool_))
    texts = tables.item_names_M is not None
    features = TEXT_FEATURES if texts else FEATURES
    names = (*(tables.item_names_M or ()), *(f"more {n}" for n in range(more_items))) if texts else None
    ids = PairIds(features=features, user_keys_N=1001 + np.arange(users), item_keys_M=keys, item_names_M=names)
    validation = pairs.where(np.arange(len(pairs)) % 10 == 0)
    train = pairs.where(np.arange(len(pairs)) % 10 > 0)
    return Interactions(
        num_users=users,
        num_items=len(keys),
        train=train,
        validation=validation,
        test=nothing,
        source="made",
        ids=ids,
    )


def items_by_user(log: Interactions) -> dict[int, set[int]]:
    """Keys of the items of each user, by key, in training and validation."""
    assert log.ids is not None
    found: dict[int, set[int]] = {}
    for part in (log.train, log.validation):
        for user, item in zip(part.user_E.tolist(), part.item_E.tolist(), strict=True):
            found.setdefault(int(log.ids.user_keys_N[user]), set()).add(int(log.ids.item_keys_M[item]))
    return found


def jaccard(log: Interactions, seed: int) -> dict[int, float]:
    """The definition: of each other item that shares a user with the seed, users of both over users of either."""
    users: dict[int, set[int]] = {}
    for user, items in items_by_user(log).items():
        for item in items:
            users.setdefault(item, set()).add(user)
    own = users.get(seed, set())
    scores = {item: len(own & others) / len(own | others) for item, others in users.items() if item != seed}
    return {item: score for item, score in scores.items() if score}


def write_tiny_retrieval(
    path: Path,
    tables: RetrievalTables | None = None,
    *,
    features: FeatureSet = FEATURES,
    model: str = "finder",
    certificate: Certificate = BY_HAND,
    measured: Measured | None = None,
    segments: Segments | None = None,
    index: IndexInfo | None = None,
    log: Interactions | None = None,
    shared_users: SharedUsers | None = None,
) -> Manifest:
    """Write a bundle of these tables; default: :func:`tiny_tables`. ``shared_users``: those of ``log``."""
    tables = tables or tiny_tables()
    with bundle_writer(path) as writer:
        graph, infos = write_retrieve_graph(tables, writer.folder)
        if segments is not None:
            graph, infos = add_segments(writer.folder, graph, infos, segments, tables.item_keys, list_length=5)
        graphs, infos = add_similar(writer.folder, {"retrieve": graph}, infos)
        if log is not None and shared_users is not None:
            infos, _ = add_shared_users(writer.folder, infos, log, shared_users)
        return writer.finish(
            Manifest(
                model=model,
                kind="retrieval",
                feature_set=features,
                graphs=graphs,
                tables=infos,
                certificate=certificate,
                metrics={} if measured is None else measured.metrics,
                evaluation=None if measured is None else measured.evaluation,
                index=index,
            )
        )


def best_items(
    tables: RetrievalTables, user_key: int, left_out: Iterable[int], k: int
) -> tuple[Int64Array, Float32Array]:
    """The definition: keys and scores of the k best items, equal ones by their keys."""
    known = np.flatnonzero(tables.user_keys == user_key)
    scores_M = tables.items_MD @ tables.users_ND[known[0]] if len(known) else tables.popularity_M
    order = np.lexsort((tables.item_keys, -scores_M))
    order = order[~np.isin(tables.item_keys[order], list(left_out))][:k]
    return tables.item_keys[order], scores_M[order]


def tiny_history_tables(items: int = 20, *, weights: HistoryWeights | None = None) -> HistoryTables:
    """Items 1 to ``items``, with numbers of few bits, so that sums are exact; items are as popular as late."""
    random, item = np.random.default_rng(0), np.arange(1, items + 1)
    return HistoryTables(
        item_keys=item,
        history_MD=random.integers(-8, 8, (items, 4)).astype(np.float32),
        items_MD=random.integers(-8, 8, (items, 4)).astype(np.float32),
        neighbours_MJ=random.integers(-1, items, (items, 3)).astype(np.int32),
        added_MJ=random.integers(1, 100, (items, 3)).astype(np.float32),
        popularity_M=item.astype(np.float32),
        weights=weights or HistoryWeights(),
    )


def tiny_attributes(width: int = 8) -> AttributeRows:
    """Rows by ``GENRES`` 1 to 4 and a price, with numbers of few bits."""
    random = np.random.default_rng(1)
    return AttributeRows(
        encoding=Encoding(
            features=GENRE_FEATURES.item,
            keys={"genres": np.arange(1, 5)},
            numbers={"price": NumberTransform(kind="standardise", centre=8.0, scale=0.25)},
        ),
        weights_PR=random.integers(-8, 8, (5, width)).astype(np.float32),
        base_R=random.integers(-8, 8, width).astype(np.float32),
    )


def write_tiny_history_retrieval(
    path: Path,
    tables: HistoryTables | None = None,
    *,
    features: FeatureSet = HISTORY_FEATURES,
    model: str = "knower",
    attributes: AttributeRows | None = None,
    index: IndexInfo | None = None,
) -> Manifest:
    """Write a bundle that knows users by their history; default: :func:`tiny_history_tables`.

    With ``attributes`` it has a graph ``item``, and takes items that it has not.
    """
    with bundle_writer(path) as writer:
        graph, infos = write_history_graph(
            tables or tiny_history_tables(),
            writer.folder,
            item_id=features.item_id.name,
            takes_added=attributes is not None,
        )
        graphs = {"retrieve": graph}
        if attributes is not None:
            graphs["item"], of_item = write_item_graph(attributes, features, writer.folder)
            infos = {**infos, **of_item}
        graphs, infos = add_similar(writer.folder, graphs, infos)
        return writer.finish(
            Manifest(
                model=model,
                kind="retrieval",
                feature_set=features,
                graphs=graphs,
                tables=infos,
                certificate=BY_HAND,
                knows_users_by="history",
                index=index,
            )
        )


def best_by_history(
    tables: HistoryTables, weight_of: Mapping[int, float], left_out: Iterable[int], k: int
) -> tuple[Int64Array, Float32Array]:
    """The definition: keys and scores of the k best items for a user who has items, by key, of these weights."""
    scores_M = np.zeros(len(tables.item_keys), dtype=np.float64)
    for key, weight in weight_of.items():
        (place,) = np.flatnonzero(tables.item_keys == key)
        scores_M += weight * (tables.items_MD @ tables.history_MD[place])
        for near, add in zip(tables.neighbours_MJ[place], tables.added_MJ[place], strict=True):
            scores_M[near] += weight * add if near >= 0 else 0.0
    if not any(weight_of.values()):
        scores_M = tables.popularity_M
    order = np.lexsort((tables.item_keys, -scores_M))
    order = order[~np.isin(tables.item_keys[order], list(left_out))][:k]
    return tables.item_keys[order], scores_M[order].astype(np.float32)
