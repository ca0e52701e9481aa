"""Tables spread over processes are the tables of one process.

Started by ``torchrun``, this file is one of the processes: it trains every kind of sharding and writes the tables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.torchrun import torchrun
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.embeddings.sharding.plan import Sharding, describe_plan, plan_tables
from recsys.embeddings.sharding.shard import (
    OPTIMIZERS,
    fuse_optimizer,
    set_rate,
    shard,
    start_process_group,
    table_shards,
    table_weights,
)
from recsys.embeddings.tables import EmbeddingTables, TableSpec
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.distributed.processes import end_process

SPECS = [
    TableSpec(name="shared", num_rows=50, dim=8),
    TableSpec(name="odd", num_rows=7, dim=12),  # three column shards on two processes
    TableSpec(name="one", num_rows=1, dim=8),  # fewer rows than processes
]
ROW_MAPS = {
    "twice": RowMap(kind="double_hash", lookups=(Lookup(table="shared", num_rows=50),) * 2),
    "odd": RowMap(kind="hash", lookups=(Lookup(table="odd", num_rows=7),)),
    "one": RowMap(kind="hash", lookups=(Lookup(table="one", num_rows=1),)),
}
KEYS = {"twice.0": "shared", "twice.1": "shared", "odd.0": "odd", "one.0": "one"}
ROWS = {spec.name: spec.num_rows for spec in SPECS}
SAMPLES = [5, 4, 2, 5, 1]  # per step; with two processes or more, some have fewer, or none
RATE = 0.1

CASES = [
    (kind, optimizer)
    for kind in ("auto", "table_wise", "row_wise", "column_wise", "table_row_wise")
    for optimizer in OPTIMIZERS
    if (kind, optimizer) != ("column_wise", "rowwise_adagrad")
]


class OnlyTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = EmbeddingTables(SPECS, ROW_MAPS)
        self.net = nn.Linear(1, 1)  # something that is the same in all processes

    def forward(self, rows: KeyedJaggedTensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.tables(rows)
        return found


def initial(table: str) -> Tensor:
    spec = next(spec for spec in SPECS if spec.name == table)
    return torch.randn(spec.num_rows, spec.dim, generator=torch.Generator().manual_seed(spec.num_rows))


def built(kind: str, optimizer: str) -> DistributedModelParallel:
    model = OnlyTables()
    fuse_optimizer(model.tables, name=optimizer, learning_rate=RATE)
    names = [spec.name for spec in SPECS]
    sharded = shard(model, table_names=names, device=torch.device("cpu"), sharding=Sharding(default=kind))
    for part in table_shards(sharded):
        rows, columns = part.weights.shape
        part.weights.copy_(initial(part.table)[part.row : part.row + rows, part.column : part.column + columns])
    return sharded


def trained(kind: str, optimizer: str) -> DistributedModelParallel:
    """After a few steps of a mean over the samples of all processes; a sample looks up a row of each key."""
    model = built(kind, optimizer)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    random = np.random.Generator(np.random.PCG64(5))
    for step, size in enumerate(SAMPLES):
        rows = {key: random.integers(0, ROWS[table], size=size) for key, table in KEYS.items()}
        factors = {table: torch.from_numpy(random.normal(size=size)).float() for table in ROW_MAPS}
        mine = {key: np.unique(values[rank::world_size]) for key, values in rows.items()}
        if "twice.1" in mine:  # the lookups of a table are of the same length
            both = np.unique(np.stack([rows["twice.0"], rows["twice.1"]])[:, rank::world_size], axis=1)
            mine["twice.0"], mine["twice.1"] = both
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=list(KEYS),
            values=torch.from_numpy(np.concatenate(list(mine.values()))),
            lengths=torch.tensor([len(values) for values in mine.values()]),
        )
        set_rate(model, RATE, step=step)
        found = model(batch)
        if step == 0:
            for table, keys in (("odd", ["odd.0"]), ("one", ["one.0"]), ("twice", ["twice.0", "twice.1"])):
                expected = sum(initial(KEYS[key])[mine[key]] for key in keys)
                assert torch.equal(found[table], expected), (kind, table)
        loss = torch.zeros(())
        for table, vectors in found.items():
            columns = [k for k in KEYS if k.partition(".")[0] == table]
            values = np.stack([rows[k][rank::world_size] for k in columns])
            where = [np.flatnonzero((np.stack([mine[k] for k in columns]).T == v).all(axis=1))[0] for v in values.T]
            mine_of_samples = vectors[torch.tensor(where, dtype=torch.int64)]
            loss = loss + (factors[table][rank::world_size, None] * (mine_of_samples**2 + mine_of_samples)).sum()
        (loss * world_size / size).backward()
    return model


def whole_tables(model: DistributedModelParallel) -> dict[str, np.ndarray]:
    """The tables, gathered from all processes."""
    parts = [(p.table, p.row, p.column, p.weights.numpy()) for p in table_shards(model)]
    everyone: list[list[tuple[str, int, int, np.ndarray]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, parts)
    tables = {spec.name: np.full((spec.num_rows, spec.dim), np.nan, dtype=np.float32) for spec in SPECS}
    for table, row, column, weights in (part for parts in everyone for part in parts):
        tables[table][row : row + weights.shape[0], column : column + weights.shape[1]] = weights
    return tables


def process(folder: Path, cases: list[tuple[str, str]], local: str) -> None:
    """What each process does."""
    os.environ["LOCAL_WORLD_SIZE"] = local
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # two "hosts" of one machine, which a run refuses to choose by itself
    start_process_group(torch.device("cpu"))
    for kind, optimizer in cases:
        model = trained(kind, optimizer)
        tables = whole_tables(model)
        if dist.get_rank() == 0:
            ranks = {p.table: p.ranks for p in describe_plan(model.plan, SPECS, optimizer=optimizer)}
            np.savez(folder / f"{kind}.{optimizer}.npz", **tables, **{f"ranks_{t}": r for t, r in ranks.items()})
    with pytest.raises(InvalidInputError, match="the tables are spread over . processes; load the run's checkpoint"):
        table_weights(model)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes on one host wrote."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(Path(__file__), folder, "2", *(f"{kind}:{optimizer}" for kind, optimizer in CASES))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def assert_same_tables(folder: Path, kind: str, optimizer: str) -> None:
    alone = whole_tables(trained("auto", optimizer))
    with np.load(folder / f"{kind}.{optimizer}.npz") as together:
        for table, rows in alone.items():
            assert not np.allclose(rows, initial(table), atol=1e-3), table
            # Rounding alone: sums over processes are in another order. Adam divides by a root of it.
            np.testing.assert_allclose(together[table], rows, rtol=0, atol=2e-6, err_msg=table)


@pytest.mark.parametrize(("kind", "optimizer"), CASES)
def test_two_processes_train_the_tables_of_one(kind: str, optimizer: str, two: Path) -> None:
    assert_same_tables(two, kind, optimizer)


def test_the_plan_keeps_a_table_row_wise_table_on_one_of_two_hosts() -> None:
    parts = planned(Sharding(default="table_row_wise"), optimizer="rowwise_adagrad", world_size=4, hosts=2)
    assert {ranks for _, _, ranks, *_ in parts.values()} == {(0, 1), (2, 3)}


@pytest.mark.prove
def test_a_table_row_wise_table_stays_on_one_of_two_hosts(tmp_path: Path) -> None:
    cases = [("table_row_wise", "rowwise_adagrad"), ("table_row_wise", "adam")]
    done = torchrun(Path(__file__), tmp_path, "2", *(f"{k}:{o}" for k, o in cases), processes=4)
    assert done.returncode == 0, done.stderr[-4000:]
    for kind, optimizer in cases:
        assert_same_tables(tmp_path, kind, optimizer)
        with np.load(tmp_path / f"{kind}.{optimizer}.npz") as together:
            hosts = {tuple(together[f"ranks_{spec.name}"]) for spec in SPECS}
        assert hosts == {(0, 1), (2, 3)}


def test_adam_moves_only_rows_looked_up_by_the_bias_corrected_moments() -> None:
    model = built("auto", "adam")
    before = {table: weight.clone() for table, weight in table_weights(model).items()}
    reference = torch.nn.Parameter(before["odd"].clone())
    sparse_adam = torch.optim.SparseAdam([reference], lr=RATE)
    gradient = torch.linspace(-2, 3, 12)
    looked_up = [[1, 4], [4], [1, 6], [4, 6]]
    for step, rows in enumerate(looked_up):
        lengths = torch.tensor([0, 0, len(rows), 0])
        batch = KeyedJaggedTensor.from_lengths_sync(keys=list(KEYS), values=torch.tensor(rows), lengths=lengths)
        set_rate(model, RATE, step=step)
        scale = float(step + 1)
        (model(batch)["odd"] * gradient * scale).sum().backward()
        values = (gradient * scale).expand(len(rows), -1)
        reference.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, reference.shape, check_invariants=True)
        sparse_adam.step()
    after = table_weights(model)
    torch.testing.assert_close(after["odd"], reference.detach(), rtol=0, atol=1e-6)
    assert torch.equal(after["odd"][[0, 2, 3, 5]], before["odd"][[0, 2, 3, 5]])
    assert torch.equal(after["shared"], before["shared"])


def planned(sharding: Sharding, *, optimizer: str = "adagrad", **options: int | str) -> dict[str, tuple[object, ...]]:
    tables = EmbeddingTables(SPECS, ROW_MAPS)
    fuse_optimizer(tables, name=optimizer, learning_rate=RATE)
    plan = plan_tables(tables, sharding=sharding, **{"device": "cpu", **options})  # type: ignore[arg-type]
    parts = describe_plan(plan, SPECS, optimizer=optimizer)
    return {p.table: (p.sharding, p.kernel, p.ranks, p.size_bytes, p.state_bytes) for p in parts}


def test_the_plan_says_where_each_table_goes_and_what_it_costs() -> None:
    sharding = Sharding(default="row_wise", by_table={"odd": "column_wise", "one": "table_wise"})
    parts = planned(sharding, world_size=2)
    assert list(parts) == ["shared", "odd", "one"]  # the largest first
    assert parts["shared"] == ("row_wise", "fused", (0, 1), 1600, 1600)
    assert parts["odd"] == ("column_wise", "fused", (0, 1), 336, 336)
    assert parts["one"][0] == "table_wise" and len(parts["one"][2]) == 1  # type: ignore[arg-type]
    bytes_of_state = {optimizer: planned(Sharding(), optimizer=optimizer)["shared"][4] for optimizer in OPTIMIZERS}
    assert bytes_of_state == {"rowwise_adagrad": 200, "adagrad": 1600, "sgd": 0, "adam": 3200}


def test_on_gpu_a_cache_share_plans_tables_in_host_memory() -> None:
    assert planned(Sharding(), device="cuda", world_size=2)["shared"][1] == "fused"
    cached = planned(Sharding(uvm_cache=0.2), device="cuda", world_size=2, optimizer="adam")
    assert {kernel for _, kernel, *_ in cached.values()} == {"fused_uvm_caching"}
    assert {kernel for _, kernel, *_ in planned(Sharding(uvm_cache=0.2)).values()} == {"fused"}


def test_tables_that_do_not_fit_are_refused() -> None:
    huge = [TableSpec(name="odd", num_rows=10**12, dim=12)]
    tables = EmbeddingTables(huge, {"odd": RowMap(kind="hash", lookups=(Lookup(table="odd", num_rows=10**12),))})
    fuse_optimizer(tables, name="sgd", learning_rate=RATE)
    with pytest.raises(ConfigError, match="the tables do not fit 2 processes of 1 hosts: "):
        plan_tables(tables, sharding=Sharding(), device="cpu", world_size=2)


def test_a_table_too_narrow_for_columns_is_refused() -> None:
    narrow = [TableSpec(name="odd", num_rows=3, dim=4)]
    tables = EmbeddingTables(narrow, {"odd": RowMap(kind="hash", lookups=(Lookup(table="odd", num_rows=3),))})
    fuse_optimizer(tables, name="sgd", learning_rate=RATE)
    message = "table 'odd' is 4 wide; column_wise allowed: 8 or more, for shards of a multiple of 4"
    with pytest.raises(ConfigError, match=message):
        plan_tables(tables, sharding=Sharding(default="column_wise"), device="cpu", world_size=2)


def test_an_unknown_sharding_or_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"sharding of table 'odd': 'rowwise': did you mean 'row_wise'\? valid: "):
        planned(Sharding(by_table={"odd": "rowwise"}))
    with pytest.raises(ConfigError, match=r"tables.shardings names no table 'od': did you mean 'odd'\? valid: odd, on"):
        shard(
            OnlyTables(),
            table_names=[spec.name for spec in SPECS],
            device=torch.device("cpu"),
            sharding=Sharding(by_table={"od": "row_wise"}),
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    pairs = [(kind, optimizer) for kind, _, optimizer in (case.partition(":") for case in sys.argv[3:])]
    process(Path(sys.argv[1]), pairs, sys.argv[2])
    end_process(0)
