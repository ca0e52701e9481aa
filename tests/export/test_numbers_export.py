"""Numeric features in exported graphs: transformed there, together, by the statistics in the manifest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_run import odd_config

from recsys.bundle import TableInfo
from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.export.graphs.files import write_graph
from recsys.export.graphs.modules import RankGraph, UserGraph, build_frozen_net, rank_example, user_example
from recsys.export.quantized import stored_tables
from recsys.features.feature_set import Categorical, FeatureSet, Numeric, Transform
from recsys.features.number_transform import fit_number
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.network import RankingConfig
from recsys.training.trained import build

KINDS: tuple[Transform, ...] = ("quantile", "signed_log", "standardise")


def with_numbers(count: int) -> FeatureSet:
    """So many of each kind on each side, between ids."""
    numbers = tuple(Numeric(name=f"n{i}", transform=KINDS[i % 3]) for i in range(3 * count))
    context = tuple(replace(n, name=f"c{n.name}") for n in numbers)
    return FeatureSet(
        name="many",
        user_id=Categorical(name="user"),
        item_id=Categorical(name="item_id"),
        item=(*numbers, Categorical(name="type")),
        context=(*context, Categorical(name="hour")),
        history=None,
    )


def graphs(features: FeatureSet, model: RankingConfig, folder: Path) -> dict[str, onnx.ModelProto]:
    config = odd_config()
    config = replace(config, model=model, tables=replace(config.tables, dims={}))
    values = np.exp(np.random.default_rng(1).normal(size=300)).astype(np.float32)
    numbers = {
        name: fit_number(f, values)
        for prefix, side in (("", features.context), ("item.", features.item))
        for f in side
        if isinstance(f, Numeric)
        for name in [f"{prefix}{f.name}"]
    }
    maps = {table: vocabulary(table, np.arange(1, 5), np.arange(4, 0, -1)) for table in features.tables()}
    trained = build(config, features, maps, device=torch.device("cpu"), numbers=numbers)
    trained.model.eval()
    twin = DenseTwin(stored_tables(trained, "none"), trained.row_maps, trained.model.module.numbers).eval()
    user = UserGraph(features, net=build_frozen_net(trained), twin=twin)
    rank = RankGraph(features, net=user.net, twin=twin)
    (folder / "tables").mkdir(parents=True)
    tables: dict[str, TableInfo] = {}
    for name, module, example in (("user", user, user_example(user)), ("rank", rank, rank_example(rank, user))):
        write_graph(module, example, folder / f"{name}.onnx", tables)
    assert all(name.endswith((".rows", ".ids")) for name in tables), "statistics are in the graph itself"
    return {name: onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in ("user", "rank")}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(DcnConfig(head=(7,)), id="dcn"),
        pytest.param(AutoIntConfig(layers=1, attention_width=4), id="autoint", marks=pytest.mark.prove),
    ],
)
def test_graphs_do_not_grow_with_the_numbers(model: RankingConfig, tmp_path: Path) -> None:
    few, many = (graphs(with_numbers(count), model, tmp_path / str(count)) for count in (1, 9))
    for name in ("user", "rank"):
        assert len(many[name].graph.input) > len(few[name].graph.input) + 20
        operators = [[node.op_type for node in each[name].graph.node] for each in (few, many)]
        assert operators[0] == operators[1]
        assert {"Log", "Sign", "IsNaN", "Where"} <= set(operators[0])
