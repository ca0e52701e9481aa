"""Places of keys in an ascending list, in standard operators: by halving, in as many steps as its length has bits.

Comparing each key with each of the list took 900 MB for 10,000 beside 10,000.

Legend: ``L`` keys of the list, ``X`` keys to find.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto, helper

_I64, _BOOL = TensorProto.INT64, TensorProto.BOOL
_node = helper.make_node


def begin_search(ascending: str) -> list[NodeProto]:
    """Nodes that come once for a list, before :func:`find_places`: its length, last place and halvings.

    They read the constants ``one``, ``two`` and ``per_halving``, 1 / ln 2.

    Args:
        ascending: name of the list, int64 [L], L >= 1.
    """
    at = f"{ascending}."
    return [
        _node("Size", [ascending], [f"{at}count"]),
        _node("Sub", [f"{at}count", "one"], [f"{at}last"]),
        # Steps that leave one place of as many as there are: bits of their number.
        _node("Cast", [f"{at}count"], [f"{at}count_f"], to=TensorProto.FLOAT),
        _node("Log", [f"{at}count_f"], [f"{at}log_count"]),
        _node("Mul", [f"{at}log_count", "per_halving"], [f"{at}log2_count"]),
        _node("Floor", [f"{at}log2_count"], [f"{at}whole_log2"]),
        _node("Cast", [f"{at}whole_log2"], [f"{at}whole_halvings"], to=_I64),
        # One for what rounding may lose.
        _node("Add", [f"{at}whole_halvings", "two"], [f"{at}halvings"]),
    ]


def find_places(ascending: str, keys: str, *, at: str) -> list[NodeProto]:
    """Nodes that find keys: ``<at>place``, int64 [X], any place for a key that is not there, and ``<at>is_there``.

    Args:
        ascending: name of the list, after :func:`begin_search`.
        keys: name of what is to be found, int64 [X].
        at: begins the names of all tensors.
    """
    return [
        _node("Sub", [keys, keys], [f"{at}first"]),
        _node("Add", [f"{at}first", f"{ascending}.count"], [f"{at}end"]),
        _node(
            "Loop",
            [f"{ascending}.halvings", "", f"{at}first", f"{at}end"],
            [f"{at}place_or_end", f"{at}last_end"],
            body=_halving(ascending, keys, at),
        ),
        _node("Min", [f"{at}place_or_end", f"{ascending}.last"], [f"{at}place"]),
        _node("Gather", [ascending, f"{at}place"], [f"{at}found_keys"]),
        _node("Equal", [f"{at}found_keys", keys], [f"{at}is_there"]),
    ]


def _halving(ascending: str, keys: str, at: str) -> GraphProto:
    """A step of the search for the first place whose key is not below each of ``keys``: [first, end) gets half as
    long."""
    nodes = [
        _node("Add", [f"{at}from", f"{at}to"], [f"{at}sum"]),
        _node("Div", [f"{at}sum", "two"], [f"{at}middle"]),
        _node("Min", [f"{at}middle", f"{ascending}.last"], [f"{at}safe_middle"]),
        _node("Gather", [ascending, f"{at}safe_middle"], [f"{at}middle_keys"]),
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
