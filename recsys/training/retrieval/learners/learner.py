"""The promises of a model in training, with the data that it learns from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from recsys.data.interactions.pairs import Pairs
from recsys.evaluation.predictions import UserValues
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.ranking import RankingMetrics
from recsys.training.retrieval.trainers import State


class Learner(Protocol):
    """A model in training, with the data that it learns from."""

    @property
    def pairs(self) -> int:
        """Training pairs that an epoch draws."""
        ...

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        ...

    @property
    def known(self) -> Known:
        """Ids of which it learns something."""
        ...

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Any, int]]:
        """The batches of an epoch, each with the number of its pairs."""
        ...

    def step(self, batch: Any, generator: torch.Generator, *, rate: float, taken: int) -> float:
        """Train on a batch, after ``taken`` steps; the mean of the loss."""
        ...

    def is_finite(self) -> bool:
        """True if all vectors are."""
        ...

    def evaluate(self, relevant: Pairs, *, test: bool) -> tuple[RankingMetrics, UserValues]:
        """As :func:`recsys.training.retrieval.evaluate.evaluate_users`."""
        ...

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Final vectors of all users and of all items; none of users that are known by their history."""
        ...

    def told(self) -> tuple[str, ...]:
        """A sentence each on what was chosen by the weights as they are."""
        ...

    def weights(self) -> State:
        """A copy of the weights that inference needs."""
        ...

    def state_dict(self) -> State:
        """For a checkpoint: weights and the optimiser."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Inverse of :meth:`state_dict`, and of :meth:`weights`."""
        ...
