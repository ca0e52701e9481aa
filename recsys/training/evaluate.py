"""Metrics of a model on samples it was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recsys.data.loader import BatchLoader
from recsys.data.samples import Dataset, rows_of_codes
from recsys.embeddings.tables import BatchConverter
from recsys.features.hashing import Int64Array
from recsys.metrics import auc, gauc, log_loss

EVALUATION_BATCH = 2048


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """AUC, impression-weighted per-user AUC, mean log loss (natural), and what they were measured on.

    ``gauc`` is None if no user has both labels.
    """

    auc: float
    gauc: float | None
    log_loss: float
    samples: int
    positives: int

    def __str__(self) -> str:
        per_user = "none" if self.gauc is None else f"{self.gauc:.4f}"
        return f"AUC {self.auc:.4f}   GAUC {per_user}   log loss {self.log_loss:.4f}   ({self.samples:,} samples)"


@torch.no_grad()
def predict(
    model: nn.Module, dataset: Dataset, indices: Int64Array, *, convert: BatchConverter, device: torch.device
) -> npt.NDArray[np.float32]:
    """Logits of the given samples of a mapped dataset, in their order; [M]."""
    was_training = model.training
    model.eval()
    loader = BatchLoader(dataset, indices, batch_size=EVALUATION_BATCH, shuffle=False)
    logits = [model(convert(batch, rows_of_codes(dataset)).to(device))[0].cpu().numpy() for batch in loader]
    model.train(was_training)
    return np.concatenate(logits) if logits else np.zeros(0, dtype=np.float32)


def evaluate(dataset: Dataset, indices: Int64Array, logits: npt.NDArray[np.float32]) -> Metrics:
    """Compare logits with labels.

    Raises:
        InvalidInputError: there are no samples, or all labels are equal.
    """
    labels = dataset.samples.label[indices]
    per_user = gauc(labels, logits, dataset.sample_user[indices])
    return Metrics(
        auc=auc(labels, logits),
        gauc=None if math.isnan(per_user) else per_user,
        log_loss=log_loss(labels, 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))),
        samples=len(labels),
        positives=int(labels.sum()),
    )
