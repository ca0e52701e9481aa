"""A real bundle, small enough to check by hand: the serving tests' model.

The user's vector is the sum over past events of ``rating * ITEMS[item mod V]``, plus ``age`` in
every element; a candidate's logit is the dot product with ``ITEMS[item mod V]``, plus a tenth of
its price. A missing rating counts as one. ``ITEMS`` is a table that both graphs share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

from recsys.arrays import Float32Array, Float64Array
from recsys.bundle import (
    RESAMPLES,
    Certificate,
    GraphInfo,
    Manifest,
    Measured,
    TableInfo,
    TensorInfo,
    bundle_writer,
)
from recsys.bundle.evaluation import resamples_bytes
from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric
from recsys.features.hashing import string_keys
from recsys.features.names import NAMES_SUFFIX, write_names

V, D = 8, 4
ITEMS = (np.arange(V * D, dtype=np.float32).reshape(V, D) - 15.0) / 64.0

FEATURES = FeatureSet(
    name="tiny",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Numeric(name="age", default=0.0), Categorical(name="tags", id_type="string", max_values=3)),
    item=(Numeric(name="price", default=0.0),),
    context=(Categorical(name="hour"),),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=20, recent=4),
    entities=(
        Entity(
            name="shop",
            id=Categorical(name="shop_id", id_type="string"),
            features=(
                Numeric(name="rating", default=2.5),
                Categorical(name="city"),
                Categorical(name="brands", max_values=2),
            ),
        ),
    ),
)

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
_USER_INPUTS = {
    "user_id": TensorInfo(dtype="int64", shape=(1,)),
    "age": TensorInfo(dtype="float32", shape=(1,)),
    "tags": TensorInfo(dtype="int64", shape=(1, 3)),
    "hour": TensorInfo(dtype="int64", shape=(1,)),
    "history.item_id": TensorInfo(dtype="int64", shape=("S",)),
    "history.rating": TensorInfo(dtype="int64", shape=("S",)),
}
_USER_OUTPUTS = {"user_vector": TensorInfo(dtype="float32", shape=(D,))}
_RANK_INPUTS = {
    "item_id": TensorInfo(dtype="int64", shape=("C",)),
    "price": TensorInfo(dtype="float32", shape=("C",)),
    **_USER_OUTPUTS,
}
_RANK_OUTPUTS = {name: TensorInfo(dtype="float32", shape=("C",)) for name in ("logits", "scores")}

BY_HAND = Certificate(requests=0, candidates=0, max_abs_logit_difference=0.0, tolerance=0.0, compared="by hand")


@dataclass(frozen=True)
class Event:
    """One past event, as the model sees it."""

    item: int
    rating: int = 1


def reference_scores(
    *,
    events: Sequence[Event],
    candidates: Sequence[int],
    age: float = 0.0,
    prices: Sequence[float] | None = None,
    items: Float32Array = ITEMS,
) -> Float64Array:
    """The scores the tiny model must give; only the newest ``recent`` events count. Shape [C]."""
    assert FEATURES.history is not None
    vector = np.full(D, age, dtype=np.float64)
    for event in events[-FEATURES.history.recent :]:
        vector += event.rating * items[event.item % len(items)].astype(np.float64)
    logits = np.array([vector @ items[item % len(items)].astype(np.float64) for item in candidates])
    if prices is not None:
        logits = logits + 0.1 * np.asarray(prices)
    return 1.0 / (1.0 + np.exp(-logits))


def write_tiny_bundle(
    path: Path,
    *,
    model: str = "tiny",
    features: FeatureSet = FEATURES,
    items: Float32Array = ITEMS,
    names: Mapping[str, Sequence[str]] | None = None,
    work: int = 0,
    leave_out: Collection[str] = (),
    also_read: Collection[str] = (),
    certificate: Certificate = BY_HAND,
    measured: Measured | None = None,
) -> Manifest:
    """Write the bundle to ``path``; ``features`` lets a test declare what the graphs do not have, ``items`` another
    table of any number of rows, ``names`` the texts of a table's string ids. ``work``: so many products of two
    matrices of 128 x 128, for nothing, in each run of the rank graph. ``leave_out``: inputs that the user graph
    does not have. ``also_read``: ids of the user that it has, too, and makes nothing of. ``measured``: some metrics.
    """
    user_inputs = {name: info for name, info in _USER_INPUTS.items() if name not in leave_out}
    for name in also_read:
        user_inputs[name] = TensorInfo(dtype="int64", shape=(1,))
    manifest = Manifest(
        model=model,
        feature_set=features,
        graphs={
            "user": GraphInfo(file="user.onnx", inputs=user_inputs, outputs=_USER_OUTPUTS),
            "rank": GraphInfo(file="rank.onnx", inputs=_RANK_INPUTS, outputs=_RANK_OUTPUTS),
        },
        tables={"item_id": TableInfo(file="tables/items.bin", dtype="float32", shape=(len(items), D))},
        certificate=certificate,
        metrics={} if measured is None else measured.metrics,
        evaluation=None if measured is None else measured.evaluation,
    )
    with bundle_writer(path) as writer:
        (writer.folder / "tables" / "items.bin").write_bytes(items.astype("<f4").tobytes())
        if measured is not None and measured.resamples:
            (writer.folder / RESAMPLES).write_bytes(resamples_bytes(measured.resamples))
        for table, texts in (names or {}).items():
            write_names(writer.folder / "tables" / f"{table}{NAMES_SUFFIX}", string_keys(texts), texts)
        _save(writer.folder / "user.onnx", _user_nodes(), user_inputs, _USER_OUTPUTS, rows=len(items))
        _save(writer.folder / "rank.onnx", _rank_nodes(work), _RANK_INPUTS, _RANK_OUTPUTS, rows=len(items))
        return writer.finish(manifest)


def _user_nodes() -> list[object]:
    node = helper.make_node
    return [
        *_rows_nodes("history.item_id"),
        node("Less", ["history.rating", "zero"], ["unrated"]),
        node("Where", ["unrated", "one", "history.rating"], ["rating"]),
        node("Cast", ["rating"], ["rating_f"], to=_F32),
        node("GreaterOrEqual", ["history.item_id", "zero"], ["present"]),
        node("Cast", ["present"], ["present_f"], to=_F32),
        node("Mul", ["rating_f", "present_f"], ["weight"]),
        node("MatMul", ["weight", "rows"], ["history_vector"]),
        node("Add", ["history_vector", "age"], ["user_vector"]),
    ]


def _rank_nodes(work: int = 0) -> list[object]:
    node = helper.make_node
    logits = "priced" if work else "logits"
    return [
        *_rows_nodes("item_id"),
        node("MatMul", ["rows", "user_vector"], ["dot"]),
        node("Mul", ["price", "tenth"], ["price_part"]),
        node("Add", ["dot", "price_part"], [logits]),
        *(_work_nodes(work) if work else []),
        node("Sigmoid", ["logits"], ["scores"]),
    ]


def _work_nodes(products: int) -> list[object]:
    """Add nothing to ``priced``, by products of zeros that ONNX Runtime cannot know to be zeros."""
    node = helper.make_node
    zeros = helper.make_tensor("value", _F32, [1], [0.0])
    return [
        node("Constant", [], ["square"], value=helper.make_tensor("square", _I64, [2], [128, 128])),
        node("ConstantOfShape", ["square"], ["empty"], value=zeros),
        node("ReduceSum", ["user_vector"], ["any"], keepdims=0),
        node("Sub", ["any", "any"], ["nothing"]),
        node("Add", ["empty", "nothing"], ["product0"]),
        *(node("MatMul", [f"product{n}", f"product{n}"], [f"product{n + 1}"]) for n in range(products)),
        node("ReduceSum", [f"product{products}"], ["sum"], keepdims=0),
        node("Add", ["priced", "sum"], ["logits"]),
    ]


def _rows_nodes(ids: str) -> list[object]:
    return [
        helper.make_node("Mod", [ids, "V"], ["index"]),
        helper.make_node("Gather", ["items", "index"], ["rows"]),
    ]


def _save(
    file: Path, nodes: list[object], inputs: dict[str, TensorInfo], outputs: dict[str, TensorInfo], *, rows: int
) -> None:
    table = TensorProto(name="items", data_type=_F32, dims=(rows, D), data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "tables/items.bin"), ("offset", "0"), ("length", str(4 * rows * D))):
        table.external_data.add(key=key, value=value)
    constants = [
        helper.make_tensor("V", _I64, [], [rows]),
        helper.make_tensor("zero", _I64, [], [0]),
        helper.make_tensor("one", _I64, [], [1]),
        helper.make_tensor("tenth", _F32, [], [0.1]),
    ]
    used = {name for n in nodes for name in n.input}  # type: ignore[attr-defined]
    graph = helper.make_graph(
        nodes,
        file.stem,
        [_value(name, info) for name, info in inputs.items()],
        [_value(name, info) for name, info in outputs.items()],
        [table, *(c for c in constants if c.name in used)],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def _value(name: str, info: TensorInfo) -> object:
    return helper.make_tensor_value_info(name, _I64 if info.dtype == "int64" else _F32, info.shape)
