"""A ranking model for training: TorchRec tables, the assembly of features, and a network above them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from recsys.embeddings.tables import EmbeddingTables, TensorBatch
from recsys.embeddings.vectors import (
    LookedUp,
    item_vectors,
    item_width,
    key_vectors,
    key_width,
    query_vectors,
    user_vectors,
    user_width,
)
from recsys.features.feature_set import FeatureSet
from recsys.models.din import Din, DinConfig, Widths


class RankingModel(nn.Module):
    """Batches to logits.

    Args:
        features: what the batches hold.
        tables: one embedding table per table of the FeatureSet.
        net: the network; its widths come from :func:`widths`.
    """

    def __init__(self, features: FeatureSet, *, tables: EmbeddingTables, net: Din) -> None:
        super().__init__()
        self.features = features
        self.tables = tables
        self.net = net

    def forward(self, batch: TensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, [B], and the distinct rows that were looked up in each table, [U, D]."""
        rows: dict[str, Tensor] = self.tables(batch.rows)
        inputs = LookedUp(batch, rows)
        logits_B: Tensor = self.net(
            user_vectors(self.features, inputs),
            query_vectors(self.features, inputs),
            item_vectors(self.features, inputs),
            key_vectors(self.features, inputs),
            batch.history_offsets,
        )
        return logits_B, rows


def widths(features: FeatureSet, dims: Mapping[str, int]) -> Widths:
    """What a network reads, given each table's width."""
    return Widths(user=user_width(features, dims), key=key_width(features, dims), item=item_width(features, dims))


def build_din(features: FeatureSet, *, dims: Mapping[str, int], config: DinConfig) -> Din:
    """DIN for these features."""
    return Din(widths(features, dims), config=config)
