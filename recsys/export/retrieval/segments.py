"""Popularity with users of a segment, such as a country, in the graph of a retrieval bundle.

A user of whom the model knows nothing gets what is popular. With segments it is popular with users who have the same
value of one of their features; where that is missing, or has no list of its own, with all users, as before. A pair
counts half after each half-life, and what is popular with all users decides among items of which the segment has as
many, those that it has not taken above all.

Legend: ``V`` values with lists of their own, ``M`` items of the data, ``R`` rows of the bundle's items, ``E`` pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, NodeProto, TensorProto, helper

from recsys.arrays import Float32Array, Float64Array, Int64Array
from recsys.bundle import ALL_ALLOWED, RETRIEVE_INPUTS, SEGMENT_OUTPUTS, GraphInfo, TableInfo, TensorInfo
from recsys.data.interactions.pairs import Interactions, ids_of, joined
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.errors import BundleError, InvalidInputError, nearest
from recsys.export.retrieval.constants import constants, read_by
from recsys.export.retrieval.graph import external, lookup
from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING
from recsys.files import write_array

HALF_LIFE_D = 30.0
"""Days after which a pair counts half, unless another number is given; 0: never."""

LEAST_PAIRS = 20
"""Pairs of a value's users, old ones counted less, below which it has no list of its own: it would be chance."""

MOST_NUMBERS = 64 * 2**20
"""Most numbers of all lists together, 256 MiB: the values with most pairs have one."""

_DAY_MS = 86_400_000
_NOW = 0.99  # the share of pairs before the moment that ages are counted from: a log may have times that are wrong
_MOST_HALVES = 1_000.0  # more are not told apart: 2 ** -1_000 is a number yet
_POPULARITY = "item_id.popularity"
_CERTIFIED = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Lists of what is popular by value of a feature of users.

    Attributes:
        feature: its name.
        keys_V: values, ascending.
        popularity_VM: scores of all items of the data, float32, above 0; of ``segments_of`` 1 / the item's place.
        note: a sentence on which values have a list, and which have none.
    """

    feature: str
    keys_V: Int64Array
    popularity_VM: Float32Array
    note: str

    @property
    def missing(self) -> dict[str, Int64Array]:
        """The graph's input for a user without a value."""
        return {self.feature: np.full(1, MISSING, dtype=np.int64)}


def segments_of(interactions: Interactions, feature: str, half_life_days: float) -> Segments:
    """Count the training and validation pairs of the users of each value.

    Args:
        interactions: with features of users.
        feature: name of one that is a single id.
        half_life_days: as of ``HALF_LIFE_D``; without effect where times are not known, which the note says. Ages are
            counted from the moment before which 99 % of the pairs are; later ones have none.

    Raises:
        InvalidInputError: there is no such feature, or no value with ``LEAST_PAIRS``, or the half-life is negative or
            not finite.
    """
    if not (math.isfinite(half_life_days) and half_life_days >= 0):
        raise InvalidInputError(
            f"the half-life is {half_life_days:g} days; allowed: 0, for none, or more, and a finite number"
        )
    allowed = [
        each.name
        for each in ids_of(interactions).features.user
        if isinstance(each, Categorical) and each.max_values == 1 and each.name in interactions.user_columns
    ]
    if feature not in allowed:
        hint = f"{nearest(feature, allowed)}; " if allowed else ""
        raise InvalidInputError(
            f"{feature!r} is no feature of users that is one id: {hint}allowed: {', '.join(allowed) or 'none here'}"
        )
    pairs = joined(interactions.train, interactions.validation)
    weight_E = _weights(pairs.time_ms_E, half_life_days, len(pairs))
    items = interactions.num_items
    value_E = np.asarray(interactions.user_columns[feature])[pairs.user_E]
    found, value_at_E = np.unique(value_E, return_inverse=True)
    counts = np.where(found >= 0, np.bincount(value_at_E, weights=weight_E, minlength=len(found)), 0.0)
    enough = np.flatnonzero(counts >= LEAST_PAIRS)
    kept = np.sort(enough[np.argsort(-counts[enough], kind="stable")][: max(1, MOST_NUMBERS // items)])
    if not len(kept):
        less = ", old ones counted less" if half_life_days and pairs.time_ms_E is not None else ""
        raise InvalidInputError(f"no value of {feature!r} has {LEAST_PAIRS} pairs{less}; export without segments")
    all_M = np.bincount(pairs.item_E, weights=weight_E, minlength=items)
    popularity_VM = np.empty((len(kept), items), dtype=np.float32)
    for place, value in enumerate(kept):
        own_E = value_at_E == value
        own_M = np.bincount(pairs.item_E[own_E], weights=weight_E[own_E], minlength=items)
        popularity_VM[place, np.lexsort((-all_M, -own_M))] = 1 / np.arange(1, items + 1)
    decay = f"a pair counts half after {half_life_days:g} days" if half_life_days else "all pairs count the same"
    if half_life_days and pairs.time_ms_E is None:
        decay = "times are not known, so all pairs count the same"
    values = np.count_nonzero(found >= 0)
    note = f"popularity by {feature}: {len(kept):,} of {values:,} values have a list of their own; {decay}"
    return Segments(feature=feature, keys_V=found[kept], popularity_VM=popularity_VM, note=note)


def _weights(time_ms_E: Int64Array | None, half_life_days: float, pairs: int) -> Float64Array:
    """A half to the power of each pair's age in half-lives; all 1 without times or a half-life."""
    if time_ms_E is None or not half_life_days or not pairs:
        return np.ones(pairs)
    age_ms_E = np.quantile(time_ms_E, _NOW, method="lower") - time_ms_E
    weight_E: Float64Array = np.exp2(-np.clip(age_ms_E / (half_life_days * _DAY_MS), 0.0, _MOST_HALVES))
    return weight_E


def add_segments(
    folder: Path,
    info: GraphInfo,
    tables: Mapping[str, TableInfo],
    segments: Segments,
    item_keys_M: Int64Array,
    *,
    list_length: int,
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Give the graph ``retrieve`` of a bundle the segment's list where it reads what is popular with all users.

    The lists that it then gives are compared with those of before, and with the segments'.

    Args:
        folder: of the bundle.
        info: of the graph.
        tables: of the bundle.
        segments: the lists.
        item_keys_M: keys of all items of the data.
        list_length: of the lists that are compared.

    Returns:
        The same with the feature as an input, ``SEGMENT_OUTPUTS``, and tables ``segment.*``.

    Raises:
        InvalidInputError: the graph has an input or output of the feature's name.
        BundleError: a list differs.
    """
    given = TensorInfo(dtype="int64", shape=(1,))
    if segments.feature in {*RETRIEVE_INPUTS, *info.outputs, *SEGMENT_OUTPUTS}:
        raise InvalidInputError(f"a feature named {segments.feature!r} cannot be the segment: a graph has that name")
    keys_R = _read(folder, tables["item_id.keys"], "<i8")
    popularity_R = _read(folder, tables[_POPULARITY], "<f4")[:, 0]
    order_M = np.argsort(item_keys_M)
    place_R = order_M[np.searchsorted(item_keys_M, keys_R[1:], sorter=order_M)]
    popularity_VR = np.concatenate([np.zeros((len(segments.keys_V), 1)), segments.popularity_VM[:, place_R]], axis=1)
    ids = build_id_table(segments.keys_V, np.arange(1, len(segments.keys_V) + 1))
    arrays = {
        "segment.popularity": np.concatenate([popularity_R[None], popularity_VR]).astype(np.float32),
        "segment.ids": np.concatenate([ids.keys_TW, ids.rows_TW], axis=1),
    }
    model = onnx.load(folder / info.file, load_external_data=False)
    added = dict(tables)
    for name, array in arrays.items():
        added[name] = TableInfo(file=f"tables/{name}.bin", dtype=str(array.dtype), shape=tuple(array.shape))
        write_array(folder / added[name].file, array)
        model.graph.initializer.append(external(name, added[name]))
    head = [
        *lookup(segments.feature, table="segment", rows="segment_row"),
        helper.make_node("Greater", ["segment_row", "zero"], ["has_segment"]),
        helper.make_node("Cast", ["has_segment"], ["segment"], to=TensorProto.INT64),
    ]
    assert _read_instead(model.graph), "a retrieval graph reads what is popular"
    nodes = [*head, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = {each.name: each for each in (*constants(segment=ids), *model.graph.initializer)}
    used = read_by(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(each for name, each in kept.items() if name in used)
    if segments.feature not in info.inputs:  # the model may read it, too
        model.graph.input.append(helper.make_tensor_value_info(segments.feature, TensorProto.INT64, [1]))
    model.graph.output.append(helper.make_tensor_value_info("segment", TensorProto.INT64, [1]))
    (folder / info.file).write_bytes(model.SerializeToString())
    onnx.checker.check_model(folder / info.file)
    del added[_POPULARITY]
    (folder / tables[_POPULARITY].file).unlink()
    inputs = {**info.inputs, segments.feature: given}
    graph = GraphInfo(file=info.file, inputs=inputs, outputs={**info.outputs, **SEGMENT_OUTPUTS})
    certify_segments(folder, graph, segments, item_keys_M, (keys_R[1:], popularity_R[1:]), list_length=list_length)
    return graph, added


def _read_instead(graph: GraphProto) -> bool:
    """Put the segment's list in place of everyone's, in the branch that reads it: no other needs it."""
    reads, inner = False, False
    for node in graph.node:
        reads |= _POPULARITY in node.input
        node.input[:] = ["own_popularity" if name == _POPULARITY else name for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner |= _read_instead(attribute.g)
    if reads:
        head: list[NodeProto] = [
            helper.make_node("Gather", ["segment.popularity", "segment_row"], ["own_popularity_1M"]),
            helper.make_node("Reshape", ["own_popularity_1M", "column"], ["own_popularity"]),
        ]
        nodes = [*head, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return reads or inner


def _read(folder: Path, info: TableInfo, dtype: str) -> Any:
    return np.fromfile(folder / info.file, dtype=dtype).reshape(info.shape)


def certify_segments(
    folder: Path,
    info: GraphInfo,
    segments: Segments,
    item_keys_M: Int64Array,
    everyone: tuple[Int64Array, Float32Array],
    *,
    list_length: int,
) -> None:
    """Compare the lists of unknown users of up to 32 values, and of none, with what they are made of.

    Args:
        folder, info, segments, item_keys_M, list_length: as of :func:`add_segments`; the graph with segments.
        everyone: keys of the bundle's items, ascending, and their scores for users without a segment.

    Raises:
        BundleError: a list has other items or scores or is shorter, or a value is taken for another.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / info.file, options, providers=["CPUExecutionProvider"])
    nothing: dict[str, Any] = {
        name: np.full([1 if isinstance(size, str) else size for size in each.shape], *_missing(each))
        for name, each in info.inputs.items()
    }
    nothing |= {"k": np.array(list_length, dtype=np.int64), **ALL_ALLOWED}
    keys_R, popularity_R = everyone
    order_M = np.argsort(item_keys_M)
    place_R = order_M[np.searchsorted(item_keys_M, keys_R, sorter=order_M)]
    for place, key in [(-1, MISSING), *enumerate(segments.keys_V[:_CERTIFIED].tolist())]:
        given = {**nothing, segments.feature: np.array([key], dtype=np.int64)}
        items, scores, known, has_own = session.run(["items", "scores", "known", "segment"], given)
        scores_R = popularity_R if place < 0 else segments.popularity_VM[place, place_R]
        best = np.argsort(-scores_R, kind="stable")[:list_length]  # as TopK of ONNX: of equal ones the first
        same = np.array_equal(items, keys_R[best]) and np.array_equal(scores, scores_R[best])
        if known[0] or bool(has_own[0]) != (place >= 0) or not same:
            raise BundleError(
                f"certificate: ONNX Runtime's list for {segments.feature} {key} is not the one that it was given. The "
                "bundle was not written"
            )


def _missing(info: TensorInfo) -> tuple[int | float, type]:
    return (MISSING, np.int64) if info.dtype == "int64" else (0.0, np.float32)
