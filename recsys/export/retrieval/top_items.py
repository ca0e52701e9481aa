"""``recsys.TopItems``, ``TopItemsByBits`` and ``TopScores``: the last step of every search, as ONNX functions.

They find the best of all rows that are allowed and not left out: ``TopItems`` by the products of the items' rows with a
user's vectors, ``TopScores`` by given scores. ``TopItemsByBits`` is what ``TopItems`` is, and its operator may miss
what the certificate of the index allows it to miss. Their bodies here are of standard operators:

- where all is allowed, all rows are scored, and what else is there costs nothing;
- of a list only its rows are read, so that a search costs as much as the list is long;
- a mask is one of the scores of all rows.

Which operators touch the item table decides the speed of a search over all. On one core, 1,000,000 items of 64 columns:

- the table times the user's vector as a [D, 1] matrix: 10 ms, the speed of memory; times a [D] vector, which
  ONNX Runtime multiplies row by row: 300 ms;
- the user's vector times the transposed table: as fast, but ONNX Runtime keeps a packed copy of a constant right-hand
  side, 256 MB in each process. A left-hand side stays in the file, shared by all processes.

Legend: ``M`` items in ``M + 1`` rows, ``D`` columns, ``Q`` vectors of the user, ``A`` added items, ``T`` additions,
``N`` rows to leave out, ``L`` rows of a list, ``B`` bytes of a mask, ``K`` found.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, helper

from recsys.export.retrieval.constants import constants, read_by
from recsys.export.retrieval.sorted_search import begin_search, find_places
from recsys.export.rewrites.extract_function import DOMAIN
from recsys.export.rewrites.functions import OPSET

WHICH = ("left_out", "allowed", "allowed_rows", "allowed_mask", "k")
"""Last inputs of both functions."""

_I64, _F32, _BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
_node = helper.make_node


def top_items(*, interests: int = 1, additions: bool = False, added: bool = False, bits: bool = False) -> FunctionProto:
    """``TopItems``, or ``TopItemsByBits``: scores are the largest products with the user's vectors, and what is added.

    Inputs: ``items`` [M + 1, D] float32, row 0 of no item; ``codes`` [M + 1, P] int8 and ``scales`` [M + 1, 2] float32
    of them (``codes.py``), or P is 0: the body does not read these; ``user`` [D, Q]; ``addition_rows`` [T] int64 and
    ``additions`` [T], which may name a row several times; ``added_scores`` [A, 1], of rows M + 1 and on, -inf for none;
    ``left_out`` [N] int64; ``allowed`` [], ``allowed_rows`` [L] ascending, ``allowed_mask`` [B] uint8, bit r % 8 of
    byte r // 8 for row r; ``k`` []. Outputs: ``rows`` [K] int64 and ``scores`` [K], best first, equal ones in the
    order of their rows.

    ``TopItemsByBits`` has ``codes`` [M + 1, B, P / 8] uint8 and ``scales`` [M + 1, 1] float32, then ``rotation`` [P, D]
    float32 (``bits.py``) and ``reranked`` [S, 2] int64: the lengths of lists, ascending, and how many rows its operator
    scores for those and shorter ones; of longer ones all. The body finds the exact list, and reads none of these.

    Args:
        interests: Q.
        additions: T is more than 0; else the body does not look at them.
        added: A is more than 0; else the same.
        bits: ``TopItemsByBits``.
    """
    products = [_node("MatMul", ["chosen", "user"], ["by_vector"])]
    if interests > 1:
        products.append(_node("ReduceMax", ["by_vector", "last_axis"], ["best_product"], keepdims=0))
    else:
        products.append(_node("Squeeze", ["by_vector", "last_axis"], ["best_product"]))
    of_list = [
        *_in_bundle(added=added),
        _node("Gather", ["items", "in_bundle"], ["list.chosen"]),
        *_named(products, {"chosen": "list.chosen"}, "list."),
    ]
    of_all = _named(products, {"chosen": "items"}, "all.")
    list_scores, all_scores = "list.best_product", "all.best_product"
    if additions:
        of_list += [
            *find_places("allowed_rows", "addition_rows", at="list.to."),
            _node("Where", ["list.to.is_there", "additions", "nothing"], ["list.additions"]),
            _node(
                "ScatterElements",
                [list_scores, "list.to.place", "list.additions"],
                ["list.summed"],
                axis=0,
                reduction="add",
            ),
        ]
        of_all.append(
            _node(
                "ScatterElements", [all_scores, "addition_rows", "additions"], ["all.summed"], axis=0, reduction="add"
            )
        )
        list_scores, all_scores = "list.summed", "all.summed"
    of_codes = ["codes", "scales", *(["rotation", "reranked"] if bits else [])]
    inputs = ["items", *of_codes, "user", "addition_rows", "additions", "added_scores", *WHICH]
    nodes = _best(of_list, list_scores, of_all, all_scores, table="items", added=added)
    return _function("TopItemsByBits" if bits else "TopItems", inputs, nodes)


def top_scores(*, added: bool = False) -> FunctionProto:
    """``TopScores``: the same of scores that are there already.

    Inputs: ``given_scores`` [M + 1, 1] float32, and from ``added_scores`` on those of :func:`top_items`.

    Args:
        added: A is more than 0.
    """
    of_list = [
        *_in_bundle(added=added),
        _node("Gather", ["given_scores", "in_bundle"], ["list.column"]),
        _node("Squeeze", ["list.column", "last_axis"], ["list.scores"]),
    ]
    of_all = [_node("Squeeze", ["given_scores", "last_axis"], ["all.scores"])]
    nodes = _best(of_list, "list.scores", of_all, "all.scores", table="given_scores", added=added)
    return _function("TopScores", ["given_scores", "added_scores", *WHICH], nodes)


def _in_bundle(*, added: bool) -> list[NodeProto]:
    """``in_bundle``: the rows of the list, 0 for those of added items; and with these also their places."""
    if not added:
        return [_node("Identity", ["allowed_rows"], ["in_bundle"])]
    return [
        _node("Less", ["allowed_rows", "table_rows"], ["is_in_bundle"]),
        _node("Where", ["is_in_bundle", "allowed_rows", "zero"], ["in_bundle"]),
        _node("Sub", ["allowed_rows", "table_rows"], ["signed_place"]),
        _node("Max", ["signed_place", "zero"], ["added_place"]),
    ]


def _best(
    of_list: Sequence[NodeProto],
    list_scores: str,
    of_all: Sequence[NodeProto],
    all_scores: str,
    *,
    table: str,
    added: bool,
) -> list[NodeProto]:
    """From the scores of the list, [L], and those of all rows of the bundle, [M + 1], to what is found."""
    of_list, of_all = list(of_list), list(of_all)
    if added:
        of_list += [
            _node("Squeeze", ["added_scores", "last_axis"], ["list.added_A"]),
            _node("Gather", ["list.added_A", "added_place"], ["list.added"]),
            _node("Where", ["is_in_bundle", list_scores, "list.added"], ["list.all"]),
        ]
        of_all += [
            _node("Squeeze", ["added_scores", "last_axis"], ["all.added_A"]),
            _node("Concat", [all_scores, "all.added_A"], ["all.all"], axis=0),
        ]
        list_scores, all_scores = "list.all", "all.all"
    of_list += [
        *find_places("allowed_rows", "out_rows", at="list.out."),
        _node("Where", ["list.out.is_there", "never", "always"], ["list.out_scores"]),
        _node(
            "ScatterElements",
            [list_scores, "list.out.place", "list.out_scores"],
            ["list.left"],
            axis=0,
            reduction="min",
        ),
    ]
    of_all += [
        _node("Shape", ["out_rows"], ["out_shape"]),
        _node("Expand", ["never", "out_shape"], ["out_scores"]),
    ]
    leave_out = [_node("ScatterElements", [all_scores, "out_rows", "out_scores"], ["left"], axis=0)]
    masked = [
        *leave_out,
        # Eight rows a byte, the first in the lowest bit.
        _node("Unsqueeze", ["allowed_mask", "last_axis"], ["mask_B1"]),
        _node("BitwiseAnd", ["mask_B1", "bits"], ["bits_B8"]),
        _node("Cast", ["bits_B8"], ["is_set_B8"], to=_BOOL),
        _node("Reshape", ["is_set_B8", "last_axis"], ["is_set_8B"]),
        _node("Shape", ["left"], ["left_shape"]),
        _node("Slice", ["is_set_8B", "row_zero", "left_shape"], ["is_set"]),
        _node("Where", ["is_set", "left", "never"], ["masked.left"]),
    ]
    of_all.append(
        _node(
            "If",
            ["is_masked"],
            ["all.left"],
            then_branch=_branch(masked, "masked.left"),
            else_branch=_branch(_named(leave_out, {}, "plain."), "plain.left"),
        )
    )
    return [
        _node("Equal", ["allowed", "one"], ["is_list"]),
        _node("Equal", ["allowed", "two"], ["is_masked"]),
        _node("Shape", [table], ["table_rows"], start=0, end=1),
        _node("Concat", ["left_out", "row_zero"], ["out_rows"], axis=0),
        # Branches, not a choice of results: only what is asked for is read.
        _node(
            "If",
            ["is_list"],
            ["left_scores"],
            then_branch=_branch([*begin_search("allowed_rows"), *of_list], "list.left"),
            else_branch=_branch(of_all, "all.left"),
        ),
        _node("Shape", ["left_scores"], ["left_count"]),
        _node("Min", ["k", "left_count"], ["most"]),
        _node("TopK", ["left_scores", "most"], ["best_scores", "best_places"], axis=0, largest=1, sorted=1),
        # What is left out comes last.
        _node("Greater", ["best_scores", "never"], ["is_left"]),
        _node("Cast", ["is_left"], ["left_ones"], to=_I64),
        _node("ReduceSum", ["left_ones"], ["found"], keepdims=1),
        _node("Slice", ["best_scores", "row_zero", "found"], ["scores"]),
        _node("Slice", ["best_places", "row_zero", "found"], ["places"]),
        _node(
            "If",
            ["is_list"],
            ["rows"],
            then_branch=_branch([_node("Gather", ["allowed_rows", "places"], ["listed"])], "listed", _I64),
            else_branch=_branch([_node("Identity", ["places"], ["as_they_are"])], "as_they_are", _I64),
        ),
    ]


def _named(nodes: Sequence[NodeProto], names: dict[str, str], begin: str) -> list[NodeProto]:
    """Copies of nodes whose results have other names, which begin so."""
    renamed = dict(names)
    for node in nodes:
        renamed |= {name: f"{begin}{name}" for name in node.output}
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [renamed.get(name, name) for name in node.input]
        copy.output[:] = [renamed[name] for name in node.output]
        copies.append(copy)
    return copies


def _branch(nodes: Sequence[NodeProto], output: str, kind: int = _F32) -> GraphProto:
    return helper.make_graph(list(nodes), output, [], [helper.make_tensor_value_info(output, kind, [None])])


def _function(name: str, inputs: Sequence[str], nodes: Sequence[NodeProto]) -> FunctionProto:
    used = read_by(nodes)
    held = [
        _node("Constant", [], [tensor.name], value=tensor)
        for tensor in constants()
        if tensor.name in used and tensor.name not in inputs
    ]
    versions = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, list(inputs), ["rows", "scores"], [*held, *nodes], versions)
