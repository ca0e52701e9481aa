"""Nodes of the graph ``retrieve`` around the scores of any model that knows users by their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, helper

from recsys.export.retrieval.by_history.added import added_rows, find_added, keys_of_rows, no_popularity
from recsys.export.retrieval.graph import best_left, best_of_bundle, lookup

_node = helper.make_node


@dataclass(frozen=True, kw_only=True)
class HistorySearch:
    """Nodes, in this order around the model's own.

    Attributes:
        events: ``event_rows``, 0 for events of no item; ``is_item``; ``history_known_0`` and ``history_known``, how
            many are of an item, a scalar and [1].
        by_popularity: ``by_popularity``, the scores of all items for users of whom no event counts.
        found: outputs ``items`` and ``scores``, of ``all_scores``.
    """

    events: Sequence[NodeProto]
    by_popularity: Sequence[NodeProto]
    found: Sequence[NodeProto]


def history_search(item_keys: str, *, takes_added: bool) -> HistorySearch:
    """Build the nodes.

    Args:
        item_keys: input of the history's items, int64 [S].
        takes_added: a request may bring items that the bundle has not.
    """
    by_popularity = [_node("Identity", ["item_id.popularity"], ["by_popularity"])]
    events = lookup(item_keys, table="item_id", rows="event_rows")
    found = best_of_bundle("all_scores")
    if takes_added:
        by_popularity = [
            *no_popularity(),
            _node("Concat", ["item_id.popularity", "added_popularity"], ["by_popularity"], axis=0),
        ]
        events = [
            *added_rows(),
            *lookup(item_keys, table="item_id", rows="bundle_event_rows"),
            *find_added(item_keys, bundle_rows="bundle_event_rows", rows="event_rows"),
        ]
        found = [
            *lookup("seen", table="item_id", rows="bundle_seen_rows"),
            *find_added("seen", bundle_rows="bundle_seen_rows", rows="seen_rows"),
            *best_left("all_scores", ["seen_rows", "added_unused"]),
            *keys_of_rows("rows", keys="items"),
        ]
    known = [
        _node("Greater", ["event_rows", "zero"], ["is_item"]),
        _node("Cast", ["is_item"], ["item_ones"], to=TensorProto.INT64),
        _node("ReduceSum", ["item_ones"], ["history_known_0"], keepdims=0),
        _node("Reshape", ["history_known_0", "one_long"], ["history_known"]),
    ]
    return HistorySearch(events=[*events, *known], by_popularity=by_popularity, found=found)
