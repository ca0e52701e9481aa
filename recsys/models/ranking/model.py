"""A ranking model for training: TorchRec tables, the assembly of features, and a network above them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from recsys.embeddings.distinct_events import distinct_events
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.tables import EmbeddingTables, TensorBatch
from recsys.embeddings.vectors import (
    LookedUp,
    item_fields,
    item_vectors,
    key_fields,
    key_vectors,
    query_vectors,
    user_fields,
    user_vectors,
)
from recsys.errors import ConfigError
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking.network import RankingConfig, RankingNet
from recsys.models.ranking.widths import Widths
from recsys.models.registry import make_net


class RankingModel(nn.Module):
    """Batches to logits.

    Args:
        features: what the batches hold.
        tables: one embedding table per table of the FeatureSet.
        net: the network; its widths come from :func:`widths`.
        numbers: transforms of the numeric features.
        distinct_events: the network reads the batch's distinct events (``network.Reads``).
    """

    def __init__(
        self,
        features: FeatureSet,
        *,
        tables: EmbeddingTables,
        net: RankingNet,
        numbers: NumberInputs,
        distinct_events: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.tables = tables
        self.net = net
        self.numbers = numbers
        self.distinct_events = distinct_events

    def forward(self, batch: TensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, [B], and the vectors of each table's distinct codes, [U, D]."""
        rows: dict[str, Tensor] = self.tables(batch.rows)
        inputs = LookedUp(batch, rows, self.numbers)
        query_BD = query_vectors(self.features, inputs)
        if self.distinct_events:
            events = distinct_events(self.features, batch, rows)
            logits_B: Tensor = self.net(
                user_vectors(self.features, inputs),
                query_BD,
                item_vectors(self.features, inputs),
                events.keys_ND,
                batch.history_offsets,
                events.index_E,
            )
            return logits_B, rows
        keys_ED = query_BD[:0] if self.features.history is None else key_vectors(self.features, inputs)
        logits_B = self.net(
            user_vectors(self.features, inputs),
            query_BD,
            item_vectors(self.features, inputs),
            keys_ED,
            batch.history_offsets,
        )
        return logits_B, rows


def widths(features: FeatureSet, dims: Mapping[str, int]) -> Widths:
    """Widths of what a network reads, given each table's."""
    lacking = features.stand_ins()
    return Widths(
        user_fields(features, dims),
        key_fields(features, dims),
        item_fields(features, dims),
        tuple(number for number, feature in enumerate(features.event_features()) if feature in lacking),
    )


def build_net(features: FeatureSet, *, dims: Mapping[str, int], config: RankingConfig) -> RankingNet:
    """Build the network that a configuration describes, for these features.

    Raises:
        ConfigError: it reads a history, and these features have none; or ``dims`` are of other features' tables.
    """
    tables = features.tables()
    if missing := [table for table in tables if table not in dims]:
        raise ConfigError(f"the row maps lack table {missing[0]!r} of {features.name!r}; they are of other features")
    if unknown := [table for table in dims if table not in tables]:
        raise ConfigError(
            f"the row maps have a table {unknown[0]!r} that {features.name!r} does not have; they are of other features"
        )
    if config.reads != "nothing" and features.history is None:
        raise ConfigError(f"model {config.kind!r} reads a history, but {features.name!r} declares none")
    return make_net(widths(features, dims), config=config)
