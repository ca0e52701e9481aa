"""Tables across processes: TorchRec's planner and DistributedModelParallel, on CPU (gloo) or GPU (NCCL).

One process is world size 1 of the same code, so that FBGEMM's fused kernels (lookup, and update
in the backward pass) run everywhere. Tables can be spread over several processes; the training loop
cannot use that yet, and refuses it, because samples and checkpoints are not divided among processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, ParameterConstraints, TopologyFactory, TrainerConfig
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from recsys.embeddings.tables import module_name
from recsys.errors import ConfigError, nearest

# TorchRec asks torch.fx a question that torch.fx warns of, once per process.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}
"""Fused optimisers that FBGEMM has on CPU and GPU alike."""


def fuse_optimizer(tables: nn.Module, *, name: str, learning_rate: float) -> None:
    """Have the tables updated inside the backward pass; call before :func:`shard`.

    Raises:
        ConfigError: an unknown optimiser.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"sparse optimizer {name!r}: {nearest(name, OPTIMIZERS)}")
    apply_optimizer_in_backward(OPTIMIZERS[name], tables.parameters(), {"lr": learning_rate})


def start_process_group(device: torch.device) -> None:
    """Join the process group that ``torchrun`` describes, or make one of this process alone."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def shard(model: nn.Module, *, table_names: list[str], device: torch.device) -> DistributedModelParallel:
    """Plan and wrap: afterwards the model's tables have memory and fused kernels.

    Tables stay whole (table-wise): at one process it saves row-wise sharding's bucketing.
    """
    start_process_group(device)
    sharders: list[Any] = [EmbeddingCollectionSharder()]
    world_size = dist.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=TopologyFactory.create_topology(
            TrainerConfig(world_size=world_size), kernel_config=KernelConfig(compute_device=device.type)
        ),
        # Room for the network and the activations; TorchRec warns of its own default policy.
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
        constraints={module_name(t): ParameterConstraints(sharding_types=["table_wise"]) for t in table_names},
    )
    plan = planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
    return DistributedModelParallel(
        model, device=device, plan=plan, sharders=sharders, init_data_parallel=world_size > 1
    )


def table_weights(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Table name -> this process's rows, [V, D]; views, so that writing to them sets the weights."""
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if hasattr(value, "local_shards"):
            for local in value.local_shards():
                weights[name.split(".")[-2].removeprefix(module_name(""))] = local.tensor
    return weights


def optimizer_state(model: DistributedModelParallel) -> Mapping[str, Tensor]:
    """The fused optimiser's state tensors by name; views."""
    tensors: dict[str, Tensor] = {}
    for key, states in model.fused_optimizer.state_dict()["state"].items():
        for name, value in states.items():
            if hasattr(value, "local_shards"):
                value = value.local_shards()[0].tensor
            if isinstance(value, Tensor):
                tensors[f"{key}:{name}"] = value
    return tensors
