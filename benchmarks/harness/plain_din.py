"""DIN as it is usually written in PyTorch: what ``train.py`` compares with.

``nn.Embedding`` tables with dense gradients, histories padded to one length with a mask, an activation
unit on the concatenation [q, k, q - k, q * k], ``nn.PReLU``, Dice by ``BatchNorm1d`` as in FuxiCTR, and Adam over
all parameters. Which features make up the user, the candidate and an event is this project's own
assembly, so that both models read the same.

Legend: ``B`` samples, ``L`` padded history length, ``D`` key width, ``M`` samples of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import rows_of_codes
from recsys.embeddings.tables import ITEM, QUERY, input_tables
from recsys.embeddings.vectors import item_vectors, key_vectors, query_vectors, user_vectors
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.history.records import require_history
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.widths import Widths
from recsys.training.config import TrainConfig


@dataclass(frozen=True)
class PlainBatch:
    """Padded samples: rows of tables and numbers by input name ([B, ...]; history inputs [B, L])."""

    inputs: Mapping[str, Tensor]
    mask_BL: Tensor
    labels_B: Tensor


class PlainPool:
    """Samples of a mapped dataset, padded once and ahead of time, from which batches are gathered."""

    def __init__(self, dataset: Dataset, indices: Int64Array) -> None:
        history = require_history(dataset.table.features)
        batch = make_batch(dataset, indices)
        self._mask_ML = np.arange(history.recent) < np.diff(batch.history_offsets)[:, None]
        self._labels_M = batch.labels
        self._columns: dict[str, Column] = {**batch.user, **{f"{ITEM}{n}": c for n, c in batch.item.items()}}
        items = {f.name for f in dataset.table.features.item}
        for attribute in history.attributes:
            if attribute.name not in items:
                self._columns[f"{QUERY}{attribute.name}"] = np.zeros(len(indices), dtype=np.int64)
        for name, column in batch.history.items():
            self._columns[name] = np.zeros(self._mask_ML.shape, dtype=np.int64)
            self._columns[name][self._mask_ML] = column
        tables, rows = input_tables(dataset.table.features), rows_of_codes(dataset)
        for name, column in self._columns.items():
            if column.dtype != np.float32:  # codes; a vocabulary has one row for each
                self._columns[name] = np.where(column < 0, -1, rows[tables[name]][column, 0])

    def __len__(self) -> int:
        """M."""
        return len(self._labels_M)

    def batch(self, chosen: Int64Array) -> PlainBatch:
        """The samples at these places of the pool."""
        return PlainBatch(
            inputs={name: torch.from_numpy(column[chosen]) for name, column in self._columns.items()},
            mask_BL=torch.from_numpy(self._mask_ML[chosen]),
            labels_B=torch.from_numpy(self._labels_M[chosen]),
        )


class PlainDin(nn.Module):
    """Padded batches to logits.

    Args:
        features: what the batches hold.
        rows: rows by table.
        dims: width by table.
        widths: what the network reads, given ``dims``.
        config: hyper-parameters; PReLU in the activation unit without softmax, Dice in the head.
    """

    def __init__(
        self,
        features: FeatureSet,
        *,
        rows: Mapping[str, int],
        dims: Mapping[str, int],
        widths: Widths,
        config: DinConfig,
    ) -> None:
        super().__init__()
        self.features = features
        self.tables = nn.ModuleDict({f"table_{name}": nn.Embedding(rows[name], dims[name]) for name in rows})
        first, second = config.attention
        self.unit = nn.Sequential(
            nn.Linear(4 * widths.key, first),
            nn.PReLU(),
            nn.Linear(first, second),
            nn.PReLU(),
            nn.Linear(second, 1),
        )
        layers: list[nn.Module] = []
        width = widths.user + 3 * widths.key + widths.item
        for units in config.head:
            layers += [nn.Linear(width, units), PlainDice(units), nn.Dropout(config.dropout)]
            width = units
        self.head = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: PlainBatch) -> Tensor:
        """Logits, [B]."""
        inputs = _Looked(self.tables, batch.inputs)
        query_BD = query_vectors(self.features, inputs)
        keys_BLD = key_vectors(self.features, inputs).view(*batch.mask_BL.shape, -1)
        queries_BLD = query_BD[:, None].expand_as(keys_BLD)
        compared = torch.cat([queries_BLD, keys_BLD, queries_BLD - keys_BLD, queries_BLD * keys_BLD], dim=-1)
        weights_BL = self.unit(compared).squeeze(-1) * batch.mask_BL
        interest_BD = (weights_BL[..., None] * keys_BLD).sum(dim=1)
        user, item = user_vectors(self.features, inputs), item_vectors(self.features, inputs)
        x = torch.cat([user, interest_BD, query_BD, interest_BD * query_BD, item], dim=1)
        logits_B1: Tensor = self.head(x)
        return logits_B1.squeeze(1)


class PlainDice(nn.Module):
    """Dice of FuxiCTR (its ``pytorch/layers/activations``), with the paper's epsilon."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(units, affine=False, eps=1e-8)
        self.alpha = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        """[B, units] to the same."""
        p = torch.sigmoid(self.bn(x))
        return p * x + self.alpha * (1 - p) * x


class _Looked:
    """``recsys.embeddings.vectors.Inputs``: one nn.Embedding lookup per input."""

    def __init__(self, tables: nn.ModuleDict, inputs: Mapping[str, Tensor]) -> None:
        self._tables = tables
        self._inputs = inputs

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """[N, D]; a padded history counts as N = B * L."""
        rows = self._inputs[name]
        found: Tensor = self._tables[f"table_{feature.table}"](rows.clamp_min(0))
        if name.startswith("history."):
            return found.flatten(0, 1)
        if rows.dim() == 1:
            return found
        mask = (rows >= 0).unsqueeze(-1)
        return (found * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)

    def numbers(self, side: str) -> Tensor:
        """None: the data set that both models are measured on has no numeric features."""
        raise NotImplementedError(side)


def plain_steps(model: PlainDin, pool: PlainPool, config: TrainConfig) -> Callable[[int], None]:
    """A function that trains so many steps on random batches of the pool."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    network = [*model.unit.parameters(), *model.head.parameters()]
    random = np.random.Generator(np.random.PCG64(0))

    def train(steps: int) -> None:
        model.train()
        for _ in range(steps):
            batch = pool.batch(random.integers(0, len(pool), size=config.batch_size))
            loss = F.binary_cross_entropy_with_logits(model(batch), batch.labels_B)
            optimizer.zero_grad()
            loss.backward()
            if config.clip_norm > 0:
                nn.utils.clip_grad_norm_(network, config.clip_norm)
            optimizer.step()
            loss.item()

    return train
