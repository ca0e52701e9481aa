"""Table-row-wise sharding for TorchRec's ``EmbeddingCollection``, which knows it for pooled lookups only.

A table lives on one host, its rows spread over that host's processes. It is row-wise sharding whose shards on
all other hosts have no rows: the exchange of ids and rows is TorchRec's, cut at the shards' first rows instead of
at equal blocks. TorchRec is extended the way it asks for, by subclassing its sharder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec.distributed.embedding import EmbeddingCollectionSharder, ShardedEmbeddingCollection
from torchrec.distributed.sharding.rw_sequence_sharding import RwSequenceEmbeddingSharding

TABLE_ROW_WISE = "table_row_wise"


class TableRowWiseSharder(EmbeddingCollectionSharder):  # type: ignore[misc]
    """TorchRec's sharder of collections, with one more sharding type."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Sharding types that a plan may name."""
        return [*super().sharding_types(compute_device_type), TABLE_ROW_WISE]

    def shard(
        self,
        module: Any,
        params: dict[str, Any],
        env: Any,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> Any:
        """The collection with memory for this process's rows."""
        params = {table: _on_every_rank(sharding, env.world_size) for table, sharding in params.items()}
        return _Collection(
            module,
            params,
            env,
            self.fused_params,
            device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
        )

    @property
    def sharded_module_type(self) -> Any:
        """Module that :meth:`shard` makes."""
        return _Collection


class _Collection(ShardedEmbeddingCollection):  # type: ignore[misc]
    @classmethod
    def create_embedding_sharding(
        cls,
        sharding_type: str,
        sharding_infos: list[Any],
        env: Any,
        device: torch.device | None = None,
        qcomm_codecs_registry: dict[str, Any] | None = None,
    ) -> Any:
        if sharding_type == TABLE_ROW_WISE:
            return _TableRowWise(sharding_infos, env, device, qcomm_codecs_registry=qcomm_codecs_registry)
        return super().create_embedding_sharding(sharding_type, sharding_infos, env, device, qcomm_codecs_registry)


class _TableRowWise(RwSequenceEmbeddingSharding):  # type: ignore[misc]
    def create_input_dist(self, device: torch.device | None = None) -> Any:
        exchange = super().create_input_dist(device)
        bounds = []
        for table in self.embedding_tables():
            starts = [shard.shard_offsets[0] for shard in table.global_metadata.shards_metadata]
            bounds += [torch.tensor([*starts, table.num_embeddings])] * table.num_features()
        # Named after the feature of TorchRec that uses it: the first row of every rank, per feature.
        exchange.zch_bucketize_row_pos = bounds
        return exchange


def _on_every_rank(sharding: Any, world_size: int) -> Any:
    """A table-row-wise plan with an empty shard on every rank that has none."""
    if sharding.sharding_type != TABLE_ROW_WISE:
        return sharding
    planned = {shard.placement.rank(): shard for shard in sharding.sharding_spec.shards}
    kind = sharding.sharding_spec.shards[0].placement.device().type
    width = sharding.sharding_spec.shards[0].shard_sizes[1]
    shards, start = [], 0
    for rank in range(world_size):
        rows = planned[rank].shard_sizes[0] if rank in planned else 0
        device = kind if kind == "cpu" else f"{kind}:{rank % len(planned)}"  # a shard per process of the host
        place = planned[rank].placement if rank in planned else f"rank:{rank}/{device}"
        shards.append(ShardMetadata(shard_offsets=[start, 0], shard_sizes=[rows, width], placement=place))
        start += rows
    return dataclasses.replace(sharding, sharding_spec=EnumerableShardingSpec(shards))
