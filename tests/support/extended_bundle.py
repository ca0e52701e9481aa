"""The tiny bundle's next release: its FeatureSet has one more feature of users, of items and of events.

Its scores are those of the tiny model for other inputs: ``bias`` is added to ``age``, ``boost`` to the price, and a
rating is multiplied by ``mode``; a missing one changes nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from onnx import helper

from recsys.bundle import GraphInfo, Manifest, TableInfo, TensorInfo, bundle_writer
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from support import tiny_bundle
from support.tiny_bundle import FEATURES, V

assert FEATURES.history is not None
EXTENDED = dataclasses.replace(
    FEATURES,
    user=(*FEATURES.user, Numeric(name="bias", default=0.0)),
    item=(*FEATURES.item, Numeric(name="boost", default=0.0)),
    history=dataclasses.replace(
        FEATURES.history, attributes=(*FEATURES.history.attributes, Categorical(name="mode", storage="u8")), recent=3
    ),
)
"""It also reads one event fewer than the tiny model."""

_USER_INPUTS = {
    **tiny_bundle._USER_INPUTS,
    "bias": TensorInfo(dtype="float32", shape=(1,)),
    "history.mode": TensorInfo(dtype="int64", shape=("S",)),
}
_RANK_INPUTS = {**tiny_bundle._RANK_INPUTS, "boost": TensorInfo(dtype="float32", shape=("C",))}


def write_extended_bundle(path: Path, *, features: FeatureSet = EXTENDED) -> Manifest:
    """Write the bundle to ``path``."""
    node = helper.make_node
    user_nodes = [
        *tiny_bundle._user_nodes()[:-3],
        node("Less", ["history.mode", "zero"], ["no_mode"]),
        node("Where", ["no_mode", "one", "history.mode"], ["mode"]),
        node("Cast", ["mode"], ["mode_f"], to=tiny_bundle._F32),
        node("Mul", ["rating_f", "mode_f"], ["times"]),
        node("Mul", ["times", "present_f"], ["weight"]),
        node("MatMul", ["weight", "rows"], ["history_vector"]),
        node("Add", ["age", "bias"], ["offset"]),
        node("Add", ["history_vector", "offset"], ["user_vector"]),
    ]
    rank_nodes = [
        *tiny_bundle._rows_nodes("item_id"),
        node("MatMul", ["rows", "user_vector"], ["dot"]),
        node("Add", ["price", "boost"], ["cost"]),
        node("Mul", ["cost", "tenth"], ["price_part"]),
        node("Add", ["dot", "price_part"], ["logits"]),
        node("Sigmoid", ["logits"], ["scores"]),
    ]
    manifest = Manifest(
        model="tiny",
        feature_set=features,
        graphs={
            "user": GraphInfo(file="user.onnx", inputs=_USER_INPUTS, outputs=tiny_bundle._USER_OUTPUTS),
            "rank": GraphInfo(file="rank.onnx", inputs=_RANK_INPUTS, outputs=tiny_bundle._RANK_OUTPUTS),
        },
        tables={"item_id": TableInfo(file="tables/items.bin", dtype="float32", shape=(V, tiny_bundle.D))},
        certificate=tiny_bundle.BY_HAND,
    )
    with bundle_writer(path) as writer:
        (writer.folder / "tables" / "items.bin").write_bytes(tiny_bundle.ITEMS.astype("<f4").tobytes())
        tiny_bundle._save(writer.folder / "user.onnx", user_nodes, _USER_INPUTS, tiny_bundle._USER_OUTPUTS, rows=V)
        tiny_bundle._save(writer.folder / "rank.onnx", rank_nodes, _RANK_INPUTS, tiny_bundle._RANK_OUTPUTS, rows=V)
        return writer.finish(manifest)
