"""Metrics of a retrieval bundle on any log's test pairs, by its graph: two bundles are compared on one set of users.

Legend: ``G`` ranked users, ``M`` items, ``k`` length of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import (
    ALL_ALLOWED,
    ITEM_OUTPUTS,
    ItemRows,
    Manifest,
    Measured,
    no_added_items,
    read_manifest,
)
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import BundleError, InvalidInputError
from recsys.evaluation.recorded import lists_digest, record_lists
from recsys.export.retrieval.by_history.certificate import open_graph
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import Feature
from recsys.features.hashing import MISSING
from recsys.training.retrieval.linear.histories import history_inputs, pair_events
from recsys.training.retrieval.ranking import list_metrics, metric_values, sample_users


def measure_retrieval_bundle(
    folder: Path, interactions: Interactions, *, list_length: int = 20, users: int = 10_000
) -> Measured:
    """Metrics of a retrieval bundle's lists for users with a test pair; their training pairs are left out of them, and
    are their histories where it knows users by these. Items that the bundle has not take part by their attributes, if
    it has a graph ``item``, as on a server.

    Args:
        folder: of the bundle.
        interactions: what is to be found, and what was taken before.
        list_length: k.
        users: a fixed sample of so many is ranked; 0: all.

    Raises:
        BundleError: the bundle does not retrieve, or gives what are no numbers.
        InvalidInputError: there is no test pair, or the bundle reads a field of events that these have not.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "retrieval":
        raise BundleError(f"{folder}: a {manifest.kind} bundle; allowed: retrieval")
    if not len(interactions.test):
        raise InvalidInputError(f"{interactions.source}: the test part is empty: there is nothing to measure")
    ids, train, wanted = ids_of(interactions), interactions.train, sample_users(interactions.test, users)
    session = open_graph(folder / manifest.graphs["retrieve"].file)
    names = [each.name for each in session.get_inputs()]
    fields = [name.removeprefix("history.") for name in names if name.startswith("history.")]
    events = (interactions.histories.get("test") or pair_events([train])) if fields else None
    users_of = {each.name: each for each in manifest.feature_set.user if each.name in names}
    added = _added(folder, manifest, interactions)
    order_M = np.argsort(ids.item_keys_M)
    sorted_M = ids.item_keys_M[order_M]
    ranked_G = np.unique(wanted.user_E)
    found_Gk = np.full((len(ranked_G), list_length), -1, dtype=np.int64)
    for row, user in enumerate(ranked_G.tolist()):
        begin, end = np.searchsorted(train.user_E, [user, user + 1])
        seen = ids.item_keys_M[train.item_E[begin:end]]
        keys, scores = session.run(
            ["items", "scores"],
            {
                "user_id": ids.user_keys_N[[user]],
                "seen": seen if len(seen) else np.full(1, MISSING),
                "k": np.array(list_length, dtype=np.int64),
                **({} if events is None else history_inputs(events, user, ids, fields)),
                **{name: _column(interactions.user_columns, each, [user]) for name, each in users_of.items()},
                **added,
                **ALL_ALLOWED,
            },
        )
        if not np.isfinite(scores).all():
            raise BundleError(f"{folder}: a list of user {ids.user_keys_N[user]} has scores that are no finite numbers")
        place_k = np.minimum(np.searchsorted(sorted_M, keys), len(sorted_M) - 1)
        found_Gk[row, : len(keys)] = np.where(sorted_M[place_k] == keys, order_M[place_k], -1)
    metrics, of_users = list_metrics(found_Gk, wanted, num_items=interactions.num_items)
    return record_lists(
        metric_values(metrics),
        of_users,
        data=lists_digest(
            wanted=(ids.user_keys_N[wanted.user_E], ids.item_keys_M[wanted.item_E]),
            items=ids.item_keys_M,
            excluded=[(ids.user_keys_N[train.user_E], ids.item_keys_M[train.item_E])],
            list_length=list_length,
        ),
        training_pairs_G=np.bincount(train.user_E, minlength=interactions.num_users)[of_users.user_G],
    )


def _added(folder: Path, manifest: Manifest, interactions: Interactions) -> dict[str, Column]:
    """Inputs of ``retrieve`` that are items which the bundle has not; nothing if it takes none."""
    if not manifest.item_inputs:
        return {}
    item_keys_M = ids_of(interactions).item_keys_M
    new = np.flatnonzero(~np.isin(item_keys_M, manifest.tables["item_id.keys"].read(folder)))
    new = new[np.argsort(item_keys_M[new])]
    none = no_added_items(int(manifest.graphs["retrieve"].inputs["added.rows"].shape[1]))
    if not len(new):
        return none
    session = open_graph(folder / manifest.graphs["item"].file)
    declared = {each.name: each for each in manifest.feature_set.item}
    given = {name: _column(interactions.item_columns, declared[name], new) for name in manifest.item_inputs}
    made = ItemRows(*session.run(list(ITEM_OUTPUTS), given))
    usable = made.usable
    if not usable.any():
        return none
    return {
        "added.items": item_keys_M[new[usable]],
        "added.places": np.arange(np.count_nonzero(usable)),
        "added.rows": made.rows[usable],
    }


def _column(columns: Mapping[str, Column], feature: Feature, rows: Sequence[int] | Int64Array) -> Column:
    """Some rows of a feature's column; missing ones where the data have none."""
    column = columns.get(feature.name)
    return missing_column(feature, len(rows)) if column is None else np.asarray(column)[rows]
