"""Popularity with users of a segment, such as a country, in the graph of a retrieval bundle.

A user of whom the model knows nothing gets what is popular. With segments it is popular with users who have the same
value of one of their features; where that is missing, or has no list of its own, with all users, as before. A pair
counts half after each half-life, and what is popular with all users decides among items that the segment has not taken.

Legend: ``V`` values with lists of their own, ``M`` items of the bundle, ``E`` pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, NodeProto, TensorProto, helper

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import RETRIEVE_INPUTS, SEGMENT_OUTPUTS, GraphInfo, TableInfo, TensorInfo
from recsys.data.interactions.pairs import Interactions, ids_of, joined
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.errors import BundleError, InvalidInputError, nearest
from recsys.export.retrieval.graph import external, id_constants, lookup
from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING
from recsys.files import write_array

HALF_LIFE_D = 30.0
"""Days after which a pair counts half, unless another number is given; 0: never."""

LEAST_PAIRS = 20
"""Pairs of a value's users below which it has no list of its own: it would be chance."""

MOST_NUMBERS = 64 * 2**20
"""Most numbers of all lists together, 256 MiB: the values with most pairs have one."""

_DAY_MS = 86_400_000
_POPULARITY = "item_id.popularity"
_CERTIFIED = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Lists of what is popular by value of a feature of users.

    Attributes:
        feature: its name.
        keys_V: values, ascending.
        popularity_VM: scores of all items of the data, float32, above 0.
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
        half_life_days: as of ``HALF_LIFE_D``; without effect where times are not known, which the note says.

    Raises:
        InvalidInputError: there is no such feature, or no value with ``LEAST_PAIRS``, or the half-life is negative.
    """
    if half_life_days < 0:
        raise InvalidInputError(f"the half-life is {half_life_days:g} days; allowed: 0, for none, or more")
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
    weight_E = np.ones(len(pairs))
    if half_life_days and pairs.time_ms_E is not None:
        weight_E = np.exp2((pairs.time_ms_E - pairs.time_ms_E.max()) / (half_life_days * _DAY_MS))
    items = interactions.num_items
    value_E = np.asarray(interactions.user_columns[feature])[pairs.user_E]
    found, counts = np.unique(value_E[value_E >= 0], return_counts=True)
    enough = np.flatnonzero(counts >= LEAST_PAIRS)
    kept = np.sort(enough[np.argsort(-counts[enough], kind="stable")][: max(1, MOST_NUMBERS // items)])
    if not len(kept):
        raise InvalidInputError(f"no value of {feature!r} has {LEAST_PAIRS} pairs; export without segments")
    all_M = np.bincount(pairs.item_E, weights=weight_E, minlength=items) + 1e-3
    popularity_VM = np.empty((len(kept), items), dtype=np.float32)
    for place, value in enumerate(found[kept]):
        own_E = value_E == value
        own_M = np.bincount(pairs.item_E[own_E], weights=weight_E[own_E], minlength=items)
        popularity_VM[place] = own_M + all_M / all_M.sum()
    decay = f"a pair counts half after {half_life_days:g} days" if half_life_days else "all pairs count the same"
    if half_life_days and pairs.time_ms_E is None:
        decay = "times are not known, so all pairs count the same"
    note = f"popularity by {feature}: {len(kept):,} of {len(found):,} values have a list of their own; {decay}"
    return Segments(feature=feature, keys_V=found[kept], popularity_VM=popularity_VM, note=note)


def add_segments(
    folder: Path, info: GraphInfo, tables: Mapping[str, TableInfo], segments: Segments, item_keys_M: Int64Array
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Give the graph ``retrieve`` of a bundle the segment's list where it reads what is popular with all users.

    Args:
        folder: of the bundle.
        info: of the graph.
        tables: of the bundle.
        segments: the lists.
        item_keys_M: keys of all items of the data.

    Returns:
        The same with the feature as an input, ``SEGMENT_OUTPUTS``, and tables ``segment.*``.

    Raises:
        InvalidInputError: the graph has an input or output of the feature's name.
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
    there = {each.name for each in model.graph.initializer}
    head = [
        *lookup(segments.feature, table="segment", rows="segment_row"),
        helper.make_node("Greater", ["segment_row", "zero"], ["has_segment"]),
        helper.make_node("Cast", ["has_segment"], ["segment"], to=TensorProto.INT64),
    ]
    model.graph.initializer.extend(each for each in id_constants(segment=ids) if each.name not in there)
    assert _read_instead(model.graph), "a retrieval graph reads what is popular"
    nodes = [*head, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [each for each in model.graph.initializer if each.name != _POPULARITY]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if segments.feature not in info.inputs:  # the model may read it, too
        model.graph.input.append(helper.make_tensor_value_info(segments.feature, TensorProto.INT64, [1]))
    model.graph.output.append(helper.make_tensor_value_info("segment", TensorProto.INT64, [1]))
    (folder / info.file).write_bytes(model.SerializeToString())
    onnx.checker.check_model(folder / info.file)
    del added[_POPULARITY]
    (folder / tables[_POPULARITY].file).unlink()
    inputs = {**info.inputs, segments.feature: given}
    return GraphInfo(file=info.file, inputs=inputs, outputs={**info.outputs, **SEGMENT_OUTPUTS}), added


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
    folder: Path, info: GraphInfo, segments: Segments, item_keys_M: Int64Array, *, list_length: int
) -> None:
    """Compare the lists of unknown users of up to 32 values, and of none, with what they are made of.

    Raises:
        BundleError: a score differs, or a value is taken for another.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / info.file, options, providers=["CPUExecutionProvider"])
    nothing: dict[str, Any] = {
        name: np.full([1 if isinstance(size, str) else size for size in each.shape], *_missing(each))
        for name, each in info.inputs.items()
    }
    index_of = np.argsort(item_keys_M)
    nothing["k"] = np.array(list_length, dtype=np.int64)
    for place, key in [(-1, MISSING), *enumerate(segments.keys_V[:_CERTIFIED].tolist())]:
        given = {**nothing, segments.feature: np.array([key], dtype=np.int64)}
        items, scores, known, has_own = session.run(["items", "scores", "known", "segment"], given)
        items_M = index_of[np.searchsorted(item_keys_M, items, sorter=index_of)]
        same = place < 0 or np.array_equal(scores, segments.popularity_VM[place, items_M])
        if known[0] or bool(has_own[0]) != (place >= 0) or not same or (np.diff(scores) > 0).any():
            raise BundleError(
                f"certificate: ONNX Runtime's list for {segments.feature} {key} is not the one that it was given. The "
                "bundle was not written"
            )


def _missing(info: TensorInfo) -> tuple[int | float, type]:
    return (MISSING, np.int64) if info.dtype == "int64" else (0.0, np.float32)
