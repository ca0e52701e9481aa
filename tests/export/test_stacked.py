"""Alike features are one operation in a graph: it does not grow with them, and answers what each gives by itself."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from recsys.bundle import TableInfo
from recsys.embeddings.dense_twin import DenseTwin, alike
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.quantize import quantize_rows
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.export.graphs.files import write_graph
from recsys.export.graphs.modules import Example, RankGraph, UserGraph, rank_example, stacked, user_example
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.number_transform import NumberTransform
from recsys.models.ranking.blocks import freeze_activations
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.model import build_net

IDS = np.arange(20)
PRICE = NumberTransform(kind="signed_log", centre=0.5, scale=2.0)


def features_of(count: int) -> FeatureSet:
    """So many features of each sort on each side, the sorts in turns."""

    def side(name: str) -> tuple[Categorical, ...]:
        each = [
            (
                Categorical(name=f"{name}_known_{n}"),
                Categorical(name=f"{name}_hashed_{n}"),
                Categorical(name=f"{name}_tags_{n}", max_values=3),
            )
            for n in range(count)
        ]
        return tuple(feature for several in each for feature in several)

    item, prices = side("item"), tuple(Numeric(name=f"price_{n}") for n in range(count))
    compared = tuple(feature for feature in item if feature.max_values == 1)
    return FeatureSet(
        name="wide",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        user=(*side("user"), Numeric(name="age")),
        item=(*item, *prices),
        context=side("context"),
        history=History(attributes=(*compared, Categorical(name="action", storage="u8")), recent=4),
    )


def graphs_of(count: int) -> tuple[UserGraph, RankGraph]:
    """Of a DIN with random weights; half of the tables are quantised."""
    features, random = features_of(count), np.random.Generator(np.random.PCG64(count))
    maps: dict[str, RowMap] = {}
    for place, table in enumerate(features.tables()):
        some = np.sort(random.choice(IDS, size=10 + place % 3, replace=False))
        known = vocabulary(table, some, np.ones_like(some), seed=place)
        maps[table] = hash_rows(table, rows=9 + place % 4, seed=place) if "hashed" in table else known
    weights = {
        table: quantize_rows(
            random.normal(size=(row_map.lookups[0].num_rows, 8)).astype(np.float32),
            "int8" if "user" in table else "none",
        )
        for table, row_map in maps.items()
    }
    torch.manual_seed(count)
    net = build_net(features, dims=dict.fromkeys(maps, 8), config=DinConfig(attention=(6, 5), head=(7,)))
    assert isinstance(net, torch.nn.Module)
    freeze_activations(net.eval())
    twin = DenseTwin(weights, maps, NumberInputs(features, {f"item.price_{n}": PRICE for n in range(count // 2)}))
    return UserGraph(features, net=net, twin=twin), RankGraph(features, net=net, twin=twin)


def inputs_of(example: Example) -> dict[str, torch.Tensor]:
    """Known, unknown and missing ids."""
    random = np.random.Generator(np.random.PCG64(1))
    return {
        name: torch.from_numpy(random.integers(-1, 25, size=tensor.shape)) if tensor.dtype == torch.int64 else tensor
        for name, tensor in example.inputs.items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Both graphs of 2 features of each sort a side, and of 4."""
    folders = {}
    for count in (2, 4):
        user, rank = graphs_of(count)
        folder, tables = tmp_path_factory.mktemp("wide"), dict[str, TableInfo]()
        (folder / "tables").mkdir()
        for module, example, name in ((user, user_example(user), "user"), (rank, rank_example(rank, user), "rank")):
            write_graph(module, example, folder / f"{name}.onnx", tables)
        folders[count] = folder
    return folders


@pytest.mark.parametrize("name", ["user", "rank"])
def test_a_graph_does_not_grow_with_alike_features(written: dict[int, Path], name: str) -> None:
    few, many = (onnx.load(written[count] / f"{name}.onnx", load_external_data=False).graph for count in (2, 4))
    assert len(many.input) > len(few.input)
    assert [node.op_type for node in many.node] == [node.op_type for node in few.node]


@pytest.mark.parametrize("name", ["user", "rank"])
def test_a_graph_with_stacked_features_answers_what_torch_does(written: dict[int, Path], name: str) -> None:
    user, rank = graphs_of(4)
    module, example = (user, user_example(user)) if name == "user" else (rank, rank_example(rank, user))
    inputs = inputs_of(example)
    session = onnxruntime.InferenceSession(written[4] / f"{name}.onnx", providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == set(inputs)
    with torch.no_grad():
        expected = module(*stacked(inputs, example.stacks))
    got = session.run(list(example.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    for before, after in zip(expected, got, strict=True):
        np.testing.assert_allclose(after, before.numpy(), rtol=1e-4, atol=1e-5)


def test_inputs_are_alike_that_differ_in_the_table_alone() -> None:
    user, _ = graphs_of(2)
    groups = alike(user.twin, user.user)
    assert [name for names in groups for name in names] != list(user.user), "grouped"
    assert {frozenset(names) for names in groups} == {
        frozenset({"user_id", "user_known_0", "user_known_1"}),
        frozenset({"user_hashed_0", "user_hashed_1"}),
        frozenset({"user_tags_0", "user_tags_1"}),
        frozenset({"context_known_0", "context_known_1"}),
        frozenset({"context_hashed_0", "context_hashed_1"}),
        frozenset({"context_tags_0", "context_tags_1"}),
        frozenset({"age"}),
    }, "users' tables are quantised, contexts' are not"


def test_stand_ins_for_tables_are_no_ones_equal_and_go_again() -> None:
    """An exporter takes equal tensors for one."""
    user, _ = graphs_of(2)
    whole = {shelf.buffer: user.twin.get_buffer(shelf.buffer) for shelf in user.twin.shelves()}
    assert len(whole) == 3
    with user.twin.without_rows():
        short = [user.twin.get_buffer(buffer) for buffer in whole]
        assert len({tensor.numpy().tobytes() for tensor in short}) == len({tensor.shape for tensor in short}) == 3
        assert all(len(tensor) < 5 for tensor in short)
        assert [tensor.dtype for tensor in short] == [tensor.dtype for tensor in whole.values()]
    assert all(user.twin.get_buffer(buffer) is tensor for buffer, tensor in whole.items())
