"""A model of vectors of ids, which learns from pairs of a user and an item.

Legend: ``E`` training pairs, ``B`` pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.evaluation.predictions import UserValues
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_users
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.ranking import RankingMetrics
from recsys.training.retrieval.trainers import RetrievalTrainer, State


class PairLearner:
    """A model of vectors of ids.

    Args:
        trainer: takes the steps.
        known: ids of which it learns something.
        config, interactions: of the run.
        drawn: places of the training pairs that steps draw.
    """

    def __init__(
        self,
        trainer: RetrievalTrainer,
        known: Known,
        *,
        config: RetrievalRunConfig,
        interactions: Interactions,
        drawn: Int64Array,
    ) -> None:
        self._trainer, self.known = trainer, known
        self._config, self._interactions = config, interactions
        self._places_E = torch.from_numpy(drawn)
        self.pairs, size = len(drawn), config.train.batch_size
        self.steps = -(-self.pairs // size) if size else 1

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        order_E = self._places_E[torch.randperm(self.pairs, generator=generator)]
        for batch_B in torch.tensor_split(order_E, self.steps):
            yield batch_B.sort().values, len(batch_B)

    def step(self, batch: Any, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return self._trainer.step(batch, generator, rate=rate, taken=taken)

    def is_finite(self) -> bool:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return all(bool(torch.isfinite(end)) for side in self._trainer.vectors() for end in torch.aminmax(side))

    def evaluate(self, relevant: Pairs, *, test: bool) -> tuple[RankingMetrics, UserValues]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return evaluate_users(self._trainer, self.known, self._config, self._interactions, relevant, test=test)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return self._trainer.vectors()

    def told(self) -> tuple[str, ...]:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return ()

    def weights(self) -> State:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return self._trainer.weights()

    def state_dict(self) -> State:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        return self._trainer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :class:`recsys.training.retrieval.learners.learner.Learner`."""
        self._trainer.load_state_dict(state)
