"""Items that are not in the bundle, in the graph that searches it: they take part by rows that a request brings.

Their rows come after those of the bundle: added item ``a`` is row ``M + 1 + a`` behind a table of ``M + 1`` rows. None
has a key of the bundle: looking each up in every search took most of the time that they cost (100,000 of them beside
500,000 items of 64 columns, one core: 120 ms, without it 11 ms, without any added item 8 ms).

The keys that a request brings are ascending, so that one is found by halving, in as many steps as their number has
bits; comparing each with each took 900 MB for 10,000 events beside 10,000 added items.

Legend: ``A`` added items, ``M`` items of the bundle, ``R`` columns of a row, ``X`` keys to find.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto, helper

TABLE_ROWS = "table_rows"
"""Constant of the graph: rows of the bundle's tables, M + 1."""

_I64, _BOOL = TensorProto.INT64, TensorProto.BOOL
_node = helper.make_node


def added_rows() -> list[NodeProto]:
    """Nodes that come first: ``added_unused``, the row of the key that is none, else 0, [A]; ``halvings``."""
    return [
        _node("Less", ["added.items", "zero"], ["added_is_unused"]),
        _node("Size", ["added.items"], ["added_count"]),
        _node("Range", ["zero", "added_count", "one"], ["added_places"]),
        _node("Add", ["added_places", TABLE_ROWS], ["added_own_rows"]),
        _node("Where", ["added_is_unused", "added_own_rows", "zero"], ["added_unused"]),
        _node("Sub", ["added_count", "one"], ["added_last"]),
        # Steps that leave one place of as many as there are: bits of their number.
        _node("Cast", ["added_count"], ["added_count_f"], to=TensorProto.FLOAT),
        _node("Log", ["added_count_f"], ["log_count"]),
        _node("Mul", ["log_count", "per_halving"], ["log2_count"]),
        _node("Floor", ["log2_count"], ["whole_log2"]),
        _node("Cast", ["whole_log2"], ["whole_halvings"], to=_I64),
        # One for what rounding may lose.
        _node("Add", ["whole_halvings", "two"], ["halvings"]),
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
        _node("Sub", [keys, keys], [f"{at}first"]),
        _node("Add", [f"{at}first", "added_count"], [f"{at}end"]),
        _node(
            "Loop", ["halvings", "", f"{at}first", f"{at}end"], [f"{at}place", f"{at}last_end"], body=_halving(keys, at)
        ),
        _node("Min", [f"{at}place", "added_last"], [f"{at}safe_place"]),
        _node("Gather", ["added.items", f"{at}safe_place"], [f"{at}found_keys"]),
        _node("Equal", [f"{at}found_keys", keys], [f"{at}is_equal"]),
        _node("Less", [keys, "zero"], [f"{at}is_missing"]),
        _node("Not", [f"{at}is_missing"], [f"{at}is_key"]),
        _node("And", [f"{at}is_equal", f"{at}is_key"], [f"{at}is_added"]),
        _node("Add", [f"{at}safe_place", TABLE_ROWS], [f"{at}own_rows"]),
        _node("Where", [f"{at}is_added", f"{at}own_rows", "zero"], [f"{at}added_rows"]),
        _node("Greater", [bundle_rows, "zero"], [f"{at}is_in_bundle"]),
        _node("Where", [f"{at}is_in_bundle", bundle_rows, f"{at}added_rows"], [rows]),
    ]


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
        _node("Sub", ["added.items", "added.items"], ["added_nothing"]),
        _node("Cast", ["added_nothing"], ["added_nothing_f"], to=TensorProto.FLOAT),
        _node("Unsqueeze", ["added_nothing_f", "last_axis"], ["added_popularity"]),
    ]


def _halving(keys: str, at: str) -> GraphProto:
    """A step of the search for the first place whose key is not below each of ``keys``: [first, end) gets half as
    long."""
    nodes = [
        _node("Add", [f"{at}from", f"{at}to"], [f"{at}sum"]),
        _node("Div", [f"{at}sum", "two"], [f"{at}middle"]),
        _node("Min", [f"{at}middle", "added_last"], [f"{at}safe_middle"]),
        _node("Gather", ["added.items", f"{at}safe_middle"], [f"{at}middle_keys"]),
        _node("Less", [f"{at}middle_keys", keys], [f"{at}is_below"]),
        _node("Less", [f"{at}from", f"{at}to"], [f"{at}is_open"]),
        _node("And", [f"{at}is_below", f"{at}is_open"], [f"{at}goes_up"]),
        _node("Add", [f"{at}middle", "one"], [f"{at}above"]),
        _node("Where", [f"{at}goes_up", f"{at}above", f"{at}from"], [f"{at}next_from"]),
        _node("Where", [f"{at}goes_up", f"{at}to", f"{at}middle"], [f"{at}next_to"]),
        _node("Identity", [f"{at}go_on"], [f"{at}goes_on"]),
    ]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        f"{at}halving",
        [
            value(f"{at}step", _I64, []),
            value(f"{at}go_on", _BOOL, []),
            value(f"{at}from", _I64, [None]),
            value(f"{at}to", _I64, [None]),
        ],
        [value(f"{at}goes_on", _BOOL, []), value(f"{at}next_from", _I64, [None]), value(f"{at}next_to", _I64, [None])],
    )
