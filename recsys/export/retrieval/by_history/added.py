"""Items that are not in the bundle, in the graph that searches it: they take part by rows that a request brings.

Their rows come after those of the bundle: added item ``a`` is row ``M + 1 + a`` behind a table of ``M + 1`` rows. None
has a key of the bundle: looking each up in every search took most of the time that they cost (100,000 of them beside
500,000 items of 64 columns, one core: 120 ms, without it 11 ms, without any added item 8 ms).

Rows may stand in any order, some of them no item's: ``added.places`` says which is whose, so that a server adds one
without moving the others. Keys are ascending, so that one is found by halving (``sorted_search.py``).

Legend: ``A`` added items, ``M`` items of the bundle, ``R`` columns of a row, ``X`` keys to find.
"""

from __future__ import annotations

from onnx import NodeProto, helper

from recsys.export.retrieval.sorted_search import begin_search, find_places

TABLE_ROWS = "table_rows"
"""Constant of the graph: rows of the bundle's tables, M + 1."""

_node = helper.make_node


def added_rows() -> list[NodeProto]:
    """Nodes that come first: ``added_is_unused``, true for the key that is none, [A, 1]."""
    return [
        *begin_search("added.items"),
        _node("Less", ["added.items", "zero"], ["added_is_unused_A"]),
        _node("Unsqueeze", ["added_is_unused_A", "last_axis"], ["added_is_unused"]),
    ]


def find_added(keys: str, *, bundle_rows: str, rows: str) -> list[NodeProto]:
    """Rows of keys among those of the bundle and the added items; 0 for keys of neither.

    Args:
        keys: name of them, int64 [X].
        bundle_rows: name of their rows in the bundle, 0 for others.
        rows: name of the result, int64 [X].
    """
    at = f"{rows}."
    return [
        *find_places("added.items", keys, at=at),
        _node("Less", [keys, "zero"], [f"{at}is_missing"]),
        _node("Not", [f"{at}is_missing"], [f"{at}is_key"]),
        _node("And", [f"{at}is_there", f"{at}is_key"], [f"{at}is_added"]),
        _node("Add", [f"{at}place", TABLE_ROWS], [f"{at}own_rows"]),
        _node("Where", [f"{at}is_added", f"{at}own_rows", "zero"], [f"{at}added_rows"]),
        _node("Greater", [bundle_rows, "zero"], [f"{at}is_in_bundle"]),
        _node("Where", [f"{at}is_in_bundle", bundle_rows, f"{at}added_rows"], [rows]),
    ]


def used_scores(scores: str, *, used: str) -> NodeProto:
    """Scores of the added items, [A, 1], with that of the key that is none -inf: it is never found."""
    return _node("Where", ["added_is_unused", "never", scores], [used])


def split_rows(rows: str, *, in_bundle: str, place: str, is_in_bundle: str) -> list[NodeProto]:
    """From rows of :func:`find_added` to those of the bundle, 0 for others, and places among the added items, 0 too."""
    return [
        _node("Less", [rows, TABLE_ROWS], [is_in_bundle]),
        _node("Where", [is_in_bundle, rows, "zero"], [in_bundle]),
        _node("Sub", [rows, TABLE_ROWS], [f"{place}.signed"]),
        _node("Max", [f"{place}.signed", "zero"], [place]),
    ]


def keys_of_rows(rows: str, *, keys: str) -> list[NodeProto]:
    """Keys of rows of :func:`find_added`."""
    return [
        *split_rows(rows, in_bundle="kept_rows", place="kept_places", is_in_bundle="kept_is_in_bundle"),
        _node("Gather", ["item_id.keys", "kept_rows"], ["kept_bundle_keys"]),
        _node("Gather", ["added.items", "kept_places"], ["kept_added_keys"]),
        _node("Where", ["kept_is_in_bundle", "kept_bundle_keys", "kept_added_keys"], [keys]),
    ]


def no_popularity() -> list[NodeProto]:
    """``added_popularity``: of each added item 0, [A, 1]."""
    return [
        _node("Where", ["added_is_unused", "never", "nothing"], ["added_popularity"]),
    ]
