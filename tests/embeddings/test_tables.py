"""Batches name each row once, and TorchRec's lookup and fused update do what indexing would."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.tiny_run import NAMESAKES, odd_dataset
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import map_ids, rows_of_codes
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.unified import unified_rows
from recsys.embeddings.sharding.shard import OPTIMIZERS, fuse_optimizer, optimizer_state, shard, table_weights
from recsys.embeddings.tables import (
    BatchConverter,
    EmbeddingTables,
    TableSpec,
    combine,
    distinct_codes,
    input_tables,
    lookup_keys,
)
from recsys.errors import ConfigError, InvalidInputError
from recsys.features.hashing import MISSING

ROWS = 12
MAPS: dict[str, RowMap] = {table: hash_rows(table, rows=50) for table in NAMESAKES.tables()}
MAPS |= {"item_id": hash_rows("item_id", rows=50, functions=2)}
MAPS |= unified_rows(["type", "values"], rows=30, chunks={"type": 1, "values": 3}, num_tables=2)
values = st.integers(-1, ROWS - 1)
flat_columns = hnp.arrays(np.int32, st.integers(0, 9), elements=values)
wide_columns = hnp.arrays(np.int32, st.tuples(st.integers(0, 5), st.integers(1, 3)), elements=values)


@given(
    st.lists(st.one_of(flat_columns, wide_columns), max_size=4),
    hnp.arrays(np.int64, ROWS, elements=st.integers(-(1 << 62), 1 << 62)),
)
def test_distinct_codes_are_distinct_and_give_the_input_back(columns: list[np.ndarray], scratch: np.ndarray) -> None:
    named = {str(i): column for i, column in enumerate(columns)}
    codes, slots = distinct_codes(named, scratch)
    # A missing single value is code 0; padding of several values is nothing.
    used = {max(int(v), 0) for column in columns for v in column.reshape(-1) if column.ndim == 1 or v >= 0}
    assert sorted(codes.tolist()) == sorted(used)
    assert set(slots) == set(named)
    for name, column in named.items():
        assert slots[name].shape == column.shape
        if column.ndim == 1:
            assert codes[slots[name]].tolist() == np.maximum(column, 0).tolist()
        else:
            present = column >= 0
            assert (slots[name][~present] == MISSING).all()
            assert codes[slots[name][present]].tolist() == column[present].tolist()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Mapped by ``MAPS``."""
    return map_ids(odd_dataset(NAMESAKES, tmp_path), {table: row_map.lookup for table, row_map in MAPS.items()})


def test_a_converted_batch_gives_back_the_encoded_one(dataset: Dataset) -> None:
    convert = BatchConverter(NAMESAKES, MAPS)
    tables = input_tables(NAMESAKES)
    # Twice: what one batch leaves behind must not show in the next.
    for chosen in (np.arange(60, 100), np.array([3, 3, 0])):
        encoded = make_batch(dataset, chosen)
        batch = convert(encoded, rows_of_codes(dataset))
        expected = {
            **encoded.user,
            **{f"item.{name}": column for name, column in encoded.item.items()},
            **encoded.history,
            "query.action": np.zeros(len(chosen)),  # candidates have no action: the unknown row
        }
        assert set(batch.slots) | set(batch.numbers) == set(expected)
        assert set(batch.numbers) == {"size", "present", "item.size"}
        for name, column in expected.items():
            if name in batch.numbers:
                np.testing.assert_array_equal(batch.numbers[name].numpy(), column)
                continue
            codes = batch.codes[tables[name]].numpy()
            assert len(np.unique(codes)) == len(codes)
            slots = batch.slots[name].numpy()
            got = np.where(slots < 0, MISSING, codes[slots])
            assert got.tolist() == (column if column.ndim == 2 else np.maximum(column, 0)).tolist()
        for table, row_map in MAPS.items():
            rows = rows_of_codes(dataset)[table][batch.codes[table].numpy()]
            assert lookup_keys(table, row_map) == [f"{table}.{k}" for k in range(len(row_map.lookups))]
            for k, key in enumerate(lookup_keys(table, row_map)):
                assert batch.rows[key].values().tolist() == rows[:, k].tolist()
        assert set(batch.rows.keys()) == {key for t, row_map in MAPS.items() for key in lookup_keys(t, row_map)}
        assert batch.history_offsets.tolist() == encoded.history_offsets.tolist()
        assert batch.labels.tolist() == encoded.labels.tolist()


def test_moving_a_batch_moves_every_tensor(dataset: Dataset) -> None:
    moved = BatchConverter(NAMESAKES, MAPS)(make_batch(dataset, np.arange(5)), rows_of_codes(dataset))
    moved = moved.to(torch.device("meta"))
    tensors = [moved.labels, moved.history_offsets, moved.rows.values()]
    tensors += [*moved.codes.values(), *moved.slots.values(), *moved.numbers.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize(("num_rows", "dim"), [(0, 4), (1, 0), (5, 6)])
def test_a_table_that_cannot_be_is_refused(num_rows: int, dim: int) -> None:
    message = f"table 'a': {num_rows} rows of width {dim}; allowed: 1 row or more, and a width that is a multiple of 4"
    with pytest.raises(InvalidInputError, match=message):
        TableSpec(name="a", num_rows=num_rows, dim=dim)


SPECS = [
    TableSpec(name="type", num_rows=6, dim=8),  # nn.Module has attributes of these names
    TableSpec(name="items", num_rows=5, dim=4),
    TableSpec(name="plain", num_rows=4, dim=8),
]
LOOKED_UP = {"type": [5, 0, 2], "items": [3], "plain": []}
ONE_LOOKUP = {spec.name: hash_rows(spec.name, rows=spec.num_rows) for spec in SPECS}


class OnlyTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = EmbeddingTables(SPECS, ONE_LOOKUP)

    def forward(self, rows: KeyedJaggedTensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.tables(rows)
        return found


def sharded(optimizer: str, learning_rate: float = 0.5) -> DistributedModelParallel:
    model = OnlyTables()
    fuse_optimizer(model.tables, name=optimizer, learning_rate=learning_rate)
    wrapped = shard(model, table_names=[spec.name for spec in SPECS], device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for _, weight in sorted(table_weights(wrapped).items()):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return wrapped


def rows_to_look_up() -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=[f"{table}.0" for table in LOOKED_UP],
        values=torch.tensor([row for rows in LOOKED_UP.values() for row in rows]),
        lengths=torch.tensor([len(rows) for rows in LOOKED_UP.values()]),
    )


def test_the_sharded_lookup_equals_indexing_the_weights() -> None:
    model = sharded("sgd")
    weights = table_weights(model)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {s.name: (s.num_rows, s.dim) for s in SPECS}
    found = model(rows_to_look_up())
    assert set(found) == set(LOOKED_UP)
    for name, rows in LOOKED_UP.items():
        assert torch.equal(found[name].detach(), weights[name][rows])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_fused_optimiser_updates_only_the_rows_looked_up(optimizer: str) -> None:
    model = sharded(optimizer)
    before = {name: weight.clone() for name, weight in table_weights(model).items()}
    sum(found.square().sum() for found in model(rows_to_look_up()).values()).backward()  # type: ignore[union-attr]
    for name, weight in table_weights(model).items():
        changed = (weight != before[name]).any(dim=1).nonzero().flatten().tolist()
        assert changed == sorted(LOOKED_UP[name])


def test_fused_sgd_subtracts_the_rate_times_the_gradient() -> None:
    model = sharded("sgd", learning_rate=0.5)
    before = table_weights(model)["type"].clone()
    factors = torch.tensor([2.0, -1.0, 3.0])
    (model(rows_to_look_up())["type"] * factors[:, None]).sum().backward()
    expected = before.clone()
    expected[LOOKED_UP["type"]] -= 0.5 * factors[:, None]
    torch.testing.assert_close(table_weights(model)["type"], expected)


def test_rowwise_adagrad_divides_by_the_root_of_the_mean_squared_gradient() -> None:
    model = sharded("rowwise_adagrad", learning_rate=0.5)
    before = table_weights(model)["items"][3].clone()
    gradient = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (model(rows_to_look_up())["items"] * gradient).sum().backward()
    expected = before - 0.5 * gradient / gradient.square().mean().sqrt()
    torch.testing.assert_close(table_weights(model)["items"][3], expected, rtol=1e-5, atol=1e-5)


def test_the_optimiser_state_has_one_entry_per_table_and_follows_training() -> None:
    model = sharded("rowwise_adagrad")
    state = optimizer_state(model)
    sums = {name: [t for key, t in state.items() if f"table_{name}." in key][0] for name in LOOKED_UP}
    assert {name: len(s.flatten()) for name, s in sums.items()} == {spec.name: spec.num_rows for spec in SPECS}
    assert not any(s.any() for s in sums.values())
    model(rows_to_look_up())["type"].sum().backward()
    assert sums["type"].flatten().nonzero().flatten().tolist() == [0, 2, 5]


def test_an_unknown_optimiser_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'adagrd': did you mean 'adagrad'\? valid: adagrad, adam, rowwise_adagr"):
        fuse_optimizer(OnlyTables(), name="adagrd", learning_rate=0.1)


def test_the_tables_of_inputs_are_those_of_their_features() -> None:
    assert input_tables(NAMESAKES) == {
        "user": "user",
        "type": "type",
        "keys": "keys",
        "item.item_id": "item_id",
        "item.type": "values",
        "history.item_id": "item_id",
        "history.action": "action",
        "query.action": "action",
    }


class Shared(nn.Module):
    """Tables that several lookups share: a sum in one table, a product of two, chunks of two widths."""

    MAPS: ClassVar[dict[str, RowMap]] = {
        "summed": hash_rows("summed", rows=5, functions=2),
        "factored": quotient_remainder("factored", np.arange(6), np.arange(6), rows=8),
        **unified_rows(["a", "b"], rows=7, chunks={"a": 3, "b": 1}, num_tables=2),
    }
    WIDTHS: ClassVar[dict[str, int]] = {
        "summed": 4,
        "factored__quotient": 8,
        "factored__remainder": 8,
        "unified_0": 4,
        "unified_1": 8,
    }

    def __init__(self) -> None:
        super().__init__()
        self.tables = EmbeddingTables(self.specs(), self.MAPS)

    @classmethod
    def specs(cls) -> list[TableSpec]:
        rows = {name: n for row_map in cls.MAPS.values() for name, n in row_map.table_rows().items()}
        return [TableSpec(name=name, num_rows=n, dim=cls.WIDTHS[name]) for name, n in rows.items()]

    def forward(self, rows: KeyedJaggedTensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.tables(rows)
        return found


def test_an_id_gets_the_sum_the_product_or_the_row_of_its_lookups_rows() -> None:
    model = Shared()
    fuse_optimizer(model.tables, name="sgd", learning_rate=1.0)
    wrapped = shard(model, table_names=list(Shared.WIDTHS), device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    for _, weight in sorted(table_weights(wrapped).items()):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    keys = np.array([0, 1, 5, 77, MISSING])
    rows = {table: row_map.lookup(keys) for table, row_map in Shared.MAPS.items()}
    flat = [column for table in Shared.MAPS for column in rows[table].T]
    found = wrapped(
        KeyedJaggedTensor.from_lengths_sync(
            keys=[key for table, row_map in Shared.MAPS.items() for key in lookup_keys(table, row_map)],
            values=torch.from_numpy(np.concatenate(flat)),
            lengths=torch.full((len(flat),), len(keys)),
        )
    )
    w = {name: weight.clone() for name, weight in table_weights(wrapped).items()}
    at = {table: torch.from_numpy(each).unbind(dim=1) for table, each in rows.items()}
    torch.testing.assert_close(found["summed"], w["summed"][at["summed"][0]] + w["summed"][at["summed"][1]])
    quotient, remainder = at["factored"]
    expected = w["factored__quotient"][quotient] * w["factored__remainder"][remainder]
    torch.testing.assert_close(found["factored"], expected)
    parts = [w["unified_0"][at["a"][0]], w["unified_1"][at["a"][1]], w["unified_0"][at["a"][2]]]
    torch.testing.assert_close(found["a"], torch.cat(parts, dim=1))
    torch.testing.assert_close(found["b"], w["unified_1"][at["b"][0]])

    # Both features' gradients reach the shared table, in one update: SGD of rate 1 subtracts their sum.
    (found["a"].sum() + 2 * found["b"].sum()).backward()
    gradient = torch.zeros_like(w["unified_1"])
    gradient.index_add_(0, at["a"][1], torch.ones(len(keys), 8))
    gradient.index_add_(0, at["b"][0], torch.full((len(keys), 8), 2.0))
    torch.testing.assert_close(table_weights(wrapped)["unified_1"], w["unified_1"] - gradient)
    assert torch.equal(table_weights(wrapped)["summed"], w["summed"])


def test_vectors_are_combined_by_definition() -> None:
    one, two, three = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0, 5.0]])
    assert combine([one, two, three], "sum").tolist() == [[6.0, 6.0]]
    assert combine([one, two, three], "product").tolist() == [[6.0, -10.0]]
    assert combine([one, two, three], "concat").tolist() == [[1.0, 2.0, 3.0, -1.0, 2.0, 5.0]]
    assert combine([one], "product") is one
