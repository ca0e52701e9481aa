"""Make a bundle of an ONNX model of your own, which `recsys serve` serves: python examples/own_onnx.py [FOLDER]

The model stands for any scorer that reads features. This one reads a user's age and an item's price, [N, 1] each, and
gives a logit for each row. A bundle has two graphs: `user` runs once per request, `rank` once over all C candidates. So
`user` passes the age on, and `rank` repeats it for each candidate, then runs the model.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from recsys.bundle import Certificate, GraphInfo, Manifest, TensorInfo, bundle_writer
from recsys.features.feature_set import Categorical, FeatureSet, Numeric

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
VERSIONS = {"opset_imports": [helper.make_opsetid("", 21)], "ir_version": 10}


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, F32, shape)


def keys(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, I64, shape)


def trained_model() -> onnx.ModelProto:
    """The model that you have: logit = 0.02 age - 0.5 price."""
    nodes = [
        helper.make_node("Concat", ["age", "price"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "weight"], ["logit"]),
    ]
    weight = numpy_helper.from_array(np.float32([[0.02], [-0.5]]), "weight")
    inputs = [floats("age", "N", 1), floats("price", "N", 1)]
    return helper.make_model(helper.make_graph(nodes, "model", inputs, [floats("logit", "N", 1)], [weight]), **VERSIONS)


def rank_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the model between what a server gives, `side.age` [1] and `price` [C], and what it wants."""
    before = [
        helper.make_node("Unsqueeze", ["price", "one"], ["price_C1"]),
        helper.make_node("Shape", ["price_C1"], ["shape"]),
        helper.make_node("Expand", ["side.age", "shape"], ["age_C1"]),
    ]
    inputs = [floats("side.age", 1), keys("item_id", "C"), floats("price", "C")]
    outputs = [floats("age_C1", "C", 1), floats("price_C1", "C", 1)]
    one = numpy_helper.from_array(np.int64([1]), "one")
    first = helper.make_model(helper.make_graph(before, "before", inputs, outputs, [one]), **VERSIONS)
    after = [
        helper.make_node("Squeeze", ["logit_C1", "last"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    last = numpy_helper.from_array(np.int64([1]), "last")
    outputs = [floats("logits", "C"), floats("scores", "C")]
    end = helper.make_model(
        helper.make_graph(after, "after", [floats("logit_C1", "C", 1)], outputs, [last]), **VERSIONS
    )
    own = compose.add_prefix(model, "own.")
    merged = compose.merge_models(first, own, io_map=[("age_C1", "own.age"), ("price_C1", "own.price")])
    return compose.merge_models(merged, end, io_map=[("own.logit", "logit_C1")])


def main(folder: Path) -> None:
    features = FeatureSet(
        name="own",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        user=(Numeric(name="age", default=30.0),),
        item=(Numeric(name="price", default=1.0),),
    )
    side = {"side.age": TensorInfo(dtype="float32", shape=(1,))}
    passed_on = [helper.make_node("Identity", ["age"], ["side.age"])]
    read = [keys("user_id", 1), keys("history.item_id", "S"), floats("age", 1)]  # this model looks at the age alone
    user = helper.make_graph(passed_on, "user", read, [floats("side.age", 1)])
    ids = {"user_id": 1, "history.item_id": "S", "item_id": "C"}
    id_of = {name: TensorInfo(dtype="int64", shape=(size,)) for name, size in ids.items()}
    age, price = (TensorInfo(dtype="float32", shape=(size,)) for size in (1, "C"))
    manifest = Manifest(
        model="own",
        feature_set=features,
        graphs={
            "user": GraphInfo(
                file="user.onnx",
                inputs={"user_id": id_of["user_id"], "history.item_id": id_of["history.item_id"], "age": age},
                outputs=side,
            ),
            "rank": GraphInfo(
                file="rank.onnx",
                inputs={**side, "item_id": id_of["item_id"], "price": price},
                outputs={name: TensorInfo(dtype="float32", shape=("C",)) for name in ("logits", "scores")},
            ),
        },
        tables={},
        certificate=Certificate(
            requests=0, candidates=0, max_abs_logit_difference=0.0, tolerance=0.0, compared="nothing: not trained here"
        ),
    )
    with bundle_writer(folder, overwrite=True) as writer:
        onnx.save(helper.make_model(user, **VERSIONS), writer.folder / "user.onnx")
        onnx.save(rank_graph(trained_model()), writer.folder / "rank.onnx")
        writer.finish(manifest)
    print(f"{folder}: model {manifest.model}")


main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own"))
