"""Users' states are shared by the models whose sums of events are the same numbers, and by no others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch
from support.tiny_run import NAMESAKES

from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.quantize import quantize_rows
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.export.graphs.encode_digest import encode_digest
from recsys.export.graphs.modules import EncodeGraph
from recsys.models.ranking.model import build_net
from recsys.models.ranking.network import StatefulNet
from recsys.models.ranking.sdim import SdimConfig

IDS = np.arange(3, 23)


@dataclass(frozen=True, kw_only=True)
class Made:
    """Parts of a model; all of its tables are of one width, so that they lie in one file.

    Attributes:
        network: seed of its weights.
        ids: table -> its ids, where they are not ``IDS``.
        row: table -> a row that is another number.
        quantized: how rows are stored.
        model: the network's configuration.
    """

    network: int = 0
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    row: dict[str, int] = field(default_factory=dict)
    quantized: str = "none"
    model: SdimConfig = field(default_factory=lambda: SdimConfig(attention=(6, 5), head=(7,), signatures=2))


def digest_of(made: Made) -> str:
    maps: dict[str, RowMap] = {}
    rows = {}
    for place, table in enumerate(NAMESAKES.tables()):
        ids = made.ids.get(table, IDS)
        maps[table] = vocabulary(table, ids, np.ones_like(ids), seed=place)
        random = np.random.Generator(np.random.PCG64(place))
        rows[table] = random.normal(size=(40, 8)).astype(np.float32)[: maps[table].lookups[0].num_rows]
        if table in made.row:
            rows[table][made.row[table], 3] += 0.5
    torch.manual_seed(made.network)
    net = build_net(NAMESAKES, dims=dict.fromkeys(maps, 8), config=made.model)
    assert isinstance(net, StatefulNet) and isinstance(net, torch.nn.Module)
    stored = {table: quantize_rows(array, made.quantized) for table, array in rows.items()}
    twin = DenseTwin(stored, maps, NumberInputs(NAMESAKES, {}))
    return encode_digest(EncodeGraph(NAMESAKES, net=net.eval(), twin=twin))  # type: ignore[arg-type]


@cache
def digest() -> str:
    return digest_of(Made())


def test_another_network_and_other_tables_in_the_same_file_leave_it() -> None:
    more = {"user": np.arange(33), "values": np.arange(5)}
    assert digest_of(Made(network=1, ids=more, row={"user": 2, "values": 1, "keys": 3, "type": 4})) == digest()


@pytest.mark.parametrize(
    "made",
    [
        Made(row={"item_id": 20}),
        Made(ids={"item_id": np.array([*range(3, 22), 99])}),
        Made(quantized="fp16"),
        Made(model=SdimConfig(attention=(6, 5), head=(7,), signatures=2, hash_seed=1)),
    ],
    ids=["a row of an item", "another id for a row", "rows in fp16", "other directions"],
)
def test_it_changes_with_whatever_sums_are_made_of(made: Made) -> None:
    assert digest_of(made) != digest()
