"""Nodes of the graph ``retrieve`` around the scores of any model that knows users by their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, helper

from recsys.export.retrieval.by_history.added import added_rows, find_added, keys_of_rows, no_popularity
from recsys.export.retrieval.graph import lookup, top_scores_node

_node = helper.make_node


@dataclass(frozen=True, kw_only=True)
class HistorySearch:
    """Nodes, in this order around the model's own.

    Attributes:
        events: ``event_rows``, 0 for events of no item; ``is_item``; ``history_known_0`` and ``history_known``, how
            many are of an item, a scalar and [1]; ``seen_rows``.
        by_popularity: ``given_rows`` and ``given_best``, what is found for users of whom no event counts.
        found: output ``items``, of ``rows``.
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
    by_popularity = [top_scores_node("item_id.popularity")]
    events = [
        *lookup(item_keys, table="item_id", rows="event_rows"),
        *lookup("seen", table="item_id", rows="seen_rows"),
    ]
    found = [_node("Gather", ["item_id.keys", "rows"], ["items"])]
    if takes_added:
        by_popularity = [*no_popularity(), top_scores_node("item_id.popularity", added_scores="added_popularity")]
        events = [
            *added_rows(),
            *lookup(item_keys, table="item_id", rows="bundle_event_rows"),
            *find_added(item_keys, bundle_rows="bundle_event_rows", rows="event_rows"),
            *lookup("seen", table="item_id", rows="bundle_seen_rows"),
            *find_added("seen", bundle_rows="bundle_seen_rows", rows="seen_rows"),
        ]
        found = keys_of_rows("rows", keys="items")
    known = [
        _node("Greater", ["event_rows", "zero"], ["is_item"]),
        _node("Cast", ["is_item"], ["item_ones"], to=TensorProto.INT64),
        _node("ReduceSum", ["item_ones"], ["history_known_0"], keepdims=0),
        _node("Reshape", ["history_known_0", "one_long"], ["history_known"]),
    ]
    return HistorySearch(events=[*events, *known], by_popularity=by_popularity, found=found)
