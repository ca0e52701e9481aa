"""Tables across processes: TorchRec's planner and DistributedModelParallel, on CPU (gloo) or GPU (NCCL).

One process is world size 1 of the same code, so that FBGEMM's fused kernels (lookup, and update
in the backward pass) run everywhere. How a table is spread:

- ``table_wise``: whole, in one process.
- ``row_wise``: its rows over all processes.
- ``table_row_wise``: its rows over the processes of one host (``table_row_wise.py``).
- ``column_wise``: each process has some columns of all rows.
- ``auto``: what TorchRec's planner estimates to be fastest of the first two, and of the third on several hosts.

Each gives the same rows as one process, up to the order of sums: TorchRec averages the gradients of all processes,
as DistributedDataParallel does. ``rowwise_adagrad`` keeps one step size per row *and shard*, so that it would train
another model column-wise; that pair is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torchrec import EmbeddingCollection
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
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
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from recsys.embeddings import WIDTH_UNIT
from recsys.embeddings.row_adam import RowAdam
from recsys.embeddings.table_row_wise import TABLE_ROW_WISE, TableRowWiseSharder
from recsys.embeddings.tables import TableSpec, module_name
from recsys.errors import ConfigError, InvalidInputError, nearest

# TorchRec asks torch.fx a question that torch.fx warns of, once per process.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}
"""Sparse optimisers: FBGEMM's fused ones, and :class:`RowAdam` where FBGEMM has no Adam, on CPU."""

STATE_PER_ROW: dict[str, tuple[int, int]] = {
    "rowwise_adagrad": (1, 0),
    "adagrad": (0, 1),
    "sgd": (0, 0),
    "adam": (0, 2),
}
"""float32 values of state that an optimiser keeps per row, and per number of a row."""

SHARDINGS = ("auto", "table_wise", "row_wise", "column_wise", TABLE_ROW_WISE)

TIMEOUT_S = 1800
"""Longest wait for another process, which may be building row maps. One that ended is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How tables are to be spread.

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
        """How this table is to be spread."""
        return self.by_table.get(table, self.default)


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """Where a table goes. ``size_bytes`` and ``state_bytes`` (the optimiser's) are over all ``ranks``."""

    table: str
    num_rows: int
    dim: int
    sharding: str
    kernel: str
    ranks: tuple[int, ...]
    size_bytes: int
    state_bytes: int


@dataclass(frozen=True, kw_only=True)
class TableShard:
    """This process's part of a table; the tensors are views, so that writing to them sets the table.

    Attributes:
        table, num_rows, dim: the whole table.
        row, column: where the part begins.
        weights: the part, [rows, columns].
        state: the optimiser's, by name; [rows] or [rows, columns].
    """

    table: str
    num_rows: int
    dim: int
    row: int
    column: int
    weights: Tensor
    state: dict[str, Tensor]


def fuse_optimizer(tables: nn.Module, *, name: str, learning_rate: float) -> None:
    """Have the tables updated inside the backward pass; call before :func:`shard`.

    Raises:
        ConfigError: an unknown optimiser.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"sparse optimizer {name!r}: {nearest(name, OPTIMIZERS)}")
    apply_optimizer_in_backward(OPTIMIZERS[name], tables.parameters(), {"lr": learning_rate})


def set_rate(model: DistributedModelParallel, rate: float, *, step: int) -> None:
    """Learning rate of the tables in the next backward pass, before which ``step`` steps were taken."""
    for kernel in _kernels(model):
        adam = getattr(kernel, "row_adam", None)
        if adam is not None:
            adam.rate, adam.step = rate, step
            continue
        kernel.emb_module.set_learning_rate(rate)
        # Adam's bias correction: FBGEMM counts lookups, those of an evaluation too.
        kernel.emb_module.iter.fill_(step)
        kernel.emb_module.iter_cpu.fill_(step)


def start_process_group(device: torch.device) -> None:
    """Join the process group that ``torchrun`` describes, or make one of this process alone."""
    if dist.is_initialized():
        return
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def local_world_size() -> int:
    """Processes of this run on this host.

    Raises:
        ConfigError: the hosts have different numbers of processes.
    """
    world_size = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size)) if dist.is_torchelastic_launched() else world_size
    if world_size % local:
        raise ConfigError(
            f"{world_size} processes, {local} of them on this host; allowed: the same number on every host"
        )
    return local


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
    configs = [config for collection in _collections(tables) for config in collection.embedding_configs()]
    _check_names(sharding, [_table_name(config.name) for config in configs])
    return _plan(tables, sharding=sharding, device=device, world_size=world_size, hosts=hosts, collective=False)


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


def shard(
    model: nn.Module, *, table_names: Sequence[str], device: torch.device, sharding: Sharding | None = None
) -> DistributedModelParallel:
    """Plan and wrap: afterwards the model's tables have memory and fused kernels.

    Args:
        model: its tables are on the meta device.
        table_names: of all its tables.
        device: of this process.
        sharding: default: ``Sharding()``.

    Raises:
        ConfigError: a table cannot be spread as asked, is not there, or the tables do not fit.
    """
    sharding = sharding or Sharding()
    _check_names(sharding, table_names)
    start_process_group(device)
    world_size = dist.get_world_size()
    hosts = world_size // local_world_size()
    plan = _plan(model, sharding=sharding, device=device.type, world_size=world_size, hosts=hosts, collective=True)
    adam_rate = _take_adam(model) if device.type == "cpu" else None
    sharded = DistributedModelParallel(
        model, device=device, plan=plan, sharders=[TableRowWiseSharder()], init_data_parallel=world_size > 1
    )
    for kernel in _kernels(sharded) if device.type == "cpu" else ():
        if adam_rate is not None:
            kernel.row_adam = RowAdam(kernel.emb_module, adam_rate)
        if not kernel.emb_module.weights_host.numel():
            kernel.emb_module.forward = _nothing(kernel.emb_module.embedding_specs[0][1])
    return sharded


def table_shards(model: DistributedModelParallel) -> list[TableShard]:
    """This process's parts of all tables; parts without rows are left out.

    With a cache on GPU, first writes it back and empties it, so that the parts are up to date and may be written to.
    """
    shards = []
    for kernel in _kernels(model):
        kernel.flush()
        kernel.purge()
        weights = kernel.emb_module.split_embedding_weights()
        adam = getattr(kernel, "row_adam", None)
        states = adam.states() if adam is not None else kernel.emb_module.get_optimizer_state()
        states = states or [{}] * len(weights)  # SGD has none
        for config, weight, state in zip(kernel.config.embedding_tables, weights, states, strict=True):
            row, column = config.local_metadata.shard_offsets
            if not len(weight):
                continue
            kept = {name: s if s.numel() == weight.numel() else s.view(-1) for name, s in state.items()}
            shards.append(
                TableShard(
                    table=_table_name(config.name),
                    num_rows=config.num_embeddings,
                    dim=config.embedding_dim,
                    row=row,
                    column=column,
                    weights=weight.detach(),
                    state=kept,
                )
            )
    return shards


def table_weights(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Table name -> its rows, [V, D]; views, so that writing to them sets the weights.

    Raises:
        InvalidInputError: the tables are spread over several processes.
    """
    if dist.get_world_size() > 1:
        raise InvalidInputError(
            f"the tables are spread over {dist.get_world_size()} processes; load the run's checkpoint in one process"
        )
    return {part.table: part.weights for part in table_shards(model)}


def optimizer_state(model: DistributedModelParallel) -> Mapping[str, Tensor]:
    """The sparse optimiser's state tensors by name, if one process holds all tables; views."""
    return {
        f"{module_name(part.table)}.{name}": state for part in table_shards(model) for name, state in part.state.items()
    }


def _check_names(sharding: Sharding, table_names: Sequence[str]) -> None:
    if unknown := sorted(set(sharding.by_table) - set(table_names)):
        raise ConfigError(f"tables.shardings names no table {unknown[0]!r}: {nearest(unknown[0], table_names)}")


def _plan(model: nn.Module, *, sharding: Sharding, device: str, world_size: int, hosts: int, collective: bool) -> Any:
    sharders: list[Any] = [TableRowWiseSharder()]
    local = world_size // hosts
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local
    gpu = torch.cuda.get_device_properties(0).total_memory if device == "cuda" and torch.cuda.is_available() else None
    constraints = {
        config.name: _constraints(config, sharding, device=device, world_size=world_size, hosts=hosts)
        for collection in _collections(model)
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
    kind = sharding.of(_table_name(config.name))
    options: dict[str, Any] = {}
    if kind not in SHARDINGS:
        raise ConfigError(f"sharding of table {_table_name(config.name)!r}: {kind!r}: {nearest(kind, SHARDINGS)}")
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
            f"table {_table_name(config.name)!r} is {config.embedding_dim} wide; "
            f"column_wise allowed: {2 * WIDTH_UNIT} or more, for shards of a multiple of {WIDTH_UNIT}"
        )
    shards = min(n for n in range(1, units + 1) if units % n == 0 and n >= min(world_size, units))
    return int(config.embedding_dim // shards)


def _take_adam(model: nn.Module) -> float | None:
    """The rate of the tables' Adam, in whose place FBGEMM gets an optimiser that changes nothing; None: no Adam."""
    rate = None
    for parameter in (p for collection in _collections(model) for p in collection.parameters()):
        if getattr(parameter, "_optimizer_classes", None) == [torch.optim.Adam]:
            rate = float(parameter._optimizer_kwargs[0]["lr"])
            parameter._optimizer_classes = [torch.optim.SGD]
            parameter._optimizer_kwargs = [{"lr": 0.0}]
    return rate


def _nothing(width: int) -> Callable[..., Tensor]:
    """What a kernel answers whose tables have no rows in this process: FBGEMM takes it for one on GPU."""
    return lambda indices, offsets: torch.zeros(0, width, requires_grad=True)


def _collections(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, EmbeddingCollection)]


def _kernels(model: nn.Module) -> list[Any]:
    """FBGEMM's kernels with this process's shards. TorchRec keeps them out of the tree of modules."""
    collections = [module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)]
    lookups = [module for collection in collections for lookup in collection._lookups for module in lookup.modules()]
    return [module for module in lookups if isinstance(module, BatchedFusedEmbedding)]


def _table_name(name: str) -> str:
    return name.removeprefix(module_name(""))
