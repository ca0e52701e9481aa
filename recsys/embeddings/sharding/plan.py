"""Sharding plans: TorchRec's planner, asked for what a recipe wants, and its answer in words.

- ``table_wise``: a table whole, in one process.
- ``row_wise``: its rows over all processes.
- ``table_row_wise``: its rows over the processes of one host (``table_row_wise.py``).
- ``column_wise``: each process has some columns of all rows.
- ``auto``: what TorchRec's planner estimates to be fastest of the first two, and of the third on several hosts.

A plan needs neither the processes nor a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingCollection
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import CacheParams

from recsys.embeddings import WIDTH_UNIT
from recsys.embeddings.sharding.table_row_wise import TABLE_ROW_WISE, TableRowWiseSharder
from recsys.embeddings.tables import TableSpec, module_name
from recsys.errors import ConfigError, nearest

STATE_PER_ROW: dict[str, tuple[int, int]] = {
    "rowwise_adagrad": (1, 0),
    "adagrad": (0, 1),
    "sgd": (0, 0),
    "adam": (0, 2),
}
"""float32 values of state that an optimiser keeps per row, and per number of a row."""


SHARDINGS = ("auto", "table_wise", "row_wise", "column_wise", TABLE_ROW_WISE)


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Sharding that a recipe asks for.

    Attributes:
        default: one of ``SHARDINGS``, for tables that ``by_table`` does not name.
        by_table: table name -> one of ``SHARDINGS``.
        uvm_cache: on GPU, the share of each table's rows that GPU memory caches, the tables themselves being in
            host memory (unified virtual memory); 0: the tables are in GPU memory. On CPU it means nothing.
    """

    default: str = "auto"
    by_table: Mapping[str, str] = field(default_factory=dict)
    uvm_cache: float = 0.0

    def of(self, table: str) -> str:
        """Sharding asked for this table."""
        return self.by_table.get(table, self.default)


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """Placement of a table. ``size_bytes`` and ``state_bytes`` (the optimiser's) are over all ``ranks``."""

    table: str
    num_rows: int
    dim: int
    sharding: str
    kernel: str
    ranks: tuple[int, ...]
    size_bytes: int
    state_bytes: int


def plan_tables(
    tables: nn.Module,
    *,
    sharding: Sharding,
    device: str,
    world_size: int = 1,
    hosts: int = 1,
) -> Any:
    """TorchRec's plan for the tables of a module on the meta device.

    Args:
        tables: holds TorchRec collections, whose optimiser was fused.
        sharding: what the plan must obey.
        device: ``cpu`` or ``cuda``; needs no such device.
        world_size: processes.
        hosts: of equally many processes.

    Raises:
        ConfigError: a table cannot be spread so, is not there, or the tables do not fit.
    """
    configs = [config for collection in collections_of(tables) for config in collection.embedding_configs()]
    check_names(sharding, [table_name(config.name) for config in configs])
    return plan(tables, sharding=sharding, device=device, world_size=world_size, hosts=hosts, collective=False)


def describe_plan(plan: Any, specs: Sequence[TableSpec], *, optimizer: str) -> list[PlannedTable]:
    """TorchRec's plan table by table, the largest first.

    Args:
        plan: from :func:`plan_tables`, or a sharded model's.
        specs: all its tables.
        optimizer: a name of ``OPTIMIZERS``.
    """
    per_row, per_number = STATE_PER_ROW[optimizer]
    parts = {name: part for module_plan in plan.plan.values() for name, part in module_plan.items()}
    planned = [
        PlannedTable(
            table=spec.name,
            num_rows=spec.num_rows,
            dim=spec.dim,
            sharding=parts[module_name(spec.name)].sharding_type,
            kernel=parts[module_name(spec.name)].compute_kernel,
            ranks=tuple(sorted(set(parts[module_name(spec.name)].ranks))),
            size_bytes=4 * spec.num_rows * spec.dim,
            state_bytes=4 * spec.num_rows * (per_row + per_number * spec.dim),
        )
        for spec in specs
    ]
    return sorted(planned, key=lambda part: (-part.size_bytes, part.table))


def check_names(sharding: Sharding, table_names: Sequence[str]) -> None:
    """Refuse rules for tables that are not there.

    Raises:
        ConfigError: there is one.
    """
    if unknown := sorted(set(sharding.by_table) - set(table_names)):
        raise ConfigError(f"tables.shardings names no table {unknown[0]!r}: {nearest(unknown[0], table_names)}")


def plan(model: nn.Module, *, sharding: Sharding, device: str, world_size: int, hosts: int, collective: bool) -> Any:
    """As :func:`plan_tables`; ``collective``: by the first process, for all."""
    sharders: list[Any] = [TableRowWiseSharder()]
    local = world_size // hosts
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local
    gpu = torch.cuda.get_device_properties(0).total_memory if device == "cuda" and torch.cuda.is_available() else None
    constraints = {
        config.name: _constraints(config, sharding, device=device, world_size=world_size, hosts=hosts)
        for collection in collections_of(model)
        for config in collection.embedding_configs()
    }
    planner = EmbeddingShardingPlanner(
        topology=TopologyFactory.create_topology(
            TrainerConfig(world_size=world_size, local_world_size=local, ddr_cap_bytes=memory, hbm_cap_bytes=gpu),
            kernel_config=KernelConfig(compute_device=device),
        ),
        # Room for the network and the activations; TorchRec warns of its own default policy.
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
        constraints=constraints,
    )
    try:
        if collective:
            return planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
        return planner.plan(model, sharders)
    except PlannerError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the tables do not fit {world_size} processes of {hosts} hosts: {reason}") from error


def _constraints(config: Any, sharding: Sharding, *, device: str, world_size: int, hosts: int) -> Any:
    kind = sharding.of(table_name(config.name))
    options: dict[str, Any] = {}
    if kind not in SHARDINGS:
        raise ConfigError(f"sharding of table {table_name(config.name)!r}: {kind!r}: {nearest(kind, SHARDINGS)}")
    if world_size == 1:
        # All kinds are the same table; table-wise saves row-wise sharding's bucketing.
        kinds = ["table_wise"]
    elif kind == "auto":
        kinds = ["table_wise", "row_wise", *([TABLE_ROW_WISE] if hosts > 1 else [])]
    else:
        kinds = [kind]
    if kinds == ["column_wise"]:
        options["min_partition"] = _shard_width(config, world_size)
    if device == "cuda" and sharding.uvm_cache > 0:
        options["compute_kernels"] = ["fused_uvm_caching"]
        options["cache_params"] = CacheParams(load_factor=sharding.uvm_cache)
    else:
        options["compute_kernels"] = ["fused"]
    return ParameterConstraints(sharding_types=kinds, **options)


def _shard_width(config: Any, world_size: int) -> int:
    """The widest equal shards that give each process one, if the width has as many units.

    Depends on the table's width alone: TorchRec cuts all column-wise tables of a collection alike.
    """
    units = config.embedding_dim // WIDTH_UNIT
    if units == 1:
        raise ConfigError(
            f"table {table_name(config.name)!r} is {config.embedding_dim} wide; "
            f"column_wise allowed: {2 * WIDTH_UNIT} or more, for shards of a multiple of {WIDTH_UNIT}"
        )
    shards = min(n for n in range(1, units + 1) if units % n == 0 and n >= min(world_size, units))
    return int(config.embedding_dim // shards)


def collections_of(model: nn.Module) -> list[Any]:
    """TorchRec's collections of tables in a module."""
    return [module for module in model.modules() if isinstance(module, EmbeddingCollection)]


def table_name(name: str) -> str:
    """The table of a submodule (``module_name``)."""
    return name.removeprefix(module_name(""))
