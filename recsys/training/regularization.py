"""DIN's mini-batch-aware L2 (Zhou et al., KDD 2018, section 5.1): an id is pulled to zero where it occurs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts, rows_of_codes
from recsys.embeddings.tables import TensorBatch
from recsys.training.distributed.data_parallel import HolderCounts


class Regularization:
    """Half the sum of lambda / n_j |w_j|^2 over the distinct ids j of a step (eq. 6).

    Args:
        dataset: mapped; n_j counts the id of code j in its training samples.
        strength: lambda; with 0 the sum is 0.
        device: of the model.
    """

    def __init__(self, dataset: Dataset, *, strength: float, device: torch.device) -> None:
        self._pull: dict[str, Tensor] = {}
        for table, (codes, counts) in id_counts(dataset, dataset.split("train")).items() if strength else ():
            pull = torch.zeros(len(rows_of_codes(dataset)[table]))
            pull[torch.from_numpy(codes)] = strength / torch.from_numpy(counts).float()
            self._pull[table] = pull.to(device)
        self._holders = HolderCounts({table: len(pull) for table, pull in self._pull.items()}, device)

    def __call__(self, rows: Mapping[str, Tensor], batch: TensorBatch) -> Tensor | float:
        """This process's part of the sum.

        Args:
            rows: table -> the vectors of its distinct codes, [U, D].
            batch: of the codes.
        """
        if not self._pull:
            return 0.0
        weights = self._holders.weights(batch.codes)
        terms = [
            (pull[batch.codes[name]] * weights.get(name, 1.0) * rows[name].square().sum(dim=1)).sum()
            for name, pull in self._pull.items()
        ]
        return 0.5 * torch.stack(terms).sum()
