"""Tables across processes: TorchRec's planner and DistributedModelParallel, on CPU (gloo) or GPU (NCCL).

One process is world size 1 of the same code, so that FBGEMM's fused kernels (lookup, and update
in the backward pass) run everywhere. Kinds of sharding: ``plan.py``.

Every way gives the same rows as one process, up to the order of sums: TorchRec averages the gradients of all processes,
as DistributedDataParallel does. ``rowwise_adagrad`` keeps one step size per row *and shard*, so that it would train
another model column-wise; that pair is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from recsys.embeddings.sharding.network import choose_interface, end_with_parent, spans_hosts, watch_connections
from recsys.embeddings.sharding.plan import Sharding, check_names, collections_of, plan, table_name
from recsys.embeddings.sharding.row_adam import RowAdam
from recsys.embeddings.sharding.table_row_wise import TableRowWiseSharder
from recsys.embeddings.tables import module_name
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


TIMEOUT_S = 1800
"""Longest wait for another process, which may be building row maps. One that ended is noticed at once."""


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
        end_with_parent()
        if spans_hosts() and backend == "gloo":
            choose_interface()
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
        if spans_hosts():
            watch_connections()
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
    check_names(sharding, table_names)
    start_process_group(device)
    world_size = dist.get_world_size()
    hosts = world_size // local_world_size()
    planned = plan(model, sharding=sharding, device=device.type, world_size=world_size, hosts=hosts, collective=True)
    adam_rate = _take_adam(model) if device.type == "cpu" else None
    sharded = DistributedModelParallel(
        model, device=device, plan=planned, sharders=[TableRowWiseSharder()], init_data_parallel=world_size > 1
    )
    if dist.is_torchelastic_launched() and spans_hosts():
        watch_connections()  # of the groups that TorchRec made, too
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
                    table=table_name(config.name),
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


def _take_adam(model: nn.Module) -> float | None:
    """The rate of the tables' Adam, in whose place FBGEMM gets an optimiser that changes nothing; None: no Adam."""
    rate = None
    for parameter in (p for collection in collections_of(model) for p in collection.parameters()):
        if getattr(parameter, "_optimizer_classes", None) == [torch.optim.Adam]:
            rate = float(parameter._optimizer_kwargs[0]["lr"])
            parameter._optimizer_classes = [torch.optim.SGD]
            parameter._optimizer_kwargs = [{"lr": 0.0}]
    return rate


def _nothing(width: int) -> Callable[..., Tensor]:
    """Answer of a kernel whose tables have no rows in this process: FBGEMM takes it for one on GPU."""
    return lambda indices, offsets: torch.zeros(0, width, requires_grad=True)


def _kernels(model: nn.Module) -> list[Any]:
    """FBGEMM's kernels with this process's shards. TorchRec keeps them out of the tree of modules."""
    collections = [module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)]
    lookups = [module for collection in collections for lookup in collection._lookups for module in lookup.modules()]
    return [module for module in lookups if isinstance(module, BatchedFusedEmbedding)]
