"""Hyper-parameters of the two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recsys.errors import ConfigError
from recsys.models.ranking.signatures import check_signatures


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Two towers.

    Attributes:
        dim: width of an item's and of an interest's vector.
        attribute_dim: width of the table of an attribute: of an item, of a user, of an event.
        layers: blocks of self-attention over the history.
        heads: of each; they divide ``dim``.
        window: newest events that attention reads, whatever ``history.recent`` leaves to ranking models.
        long_history: events before the window that are read, too, by hash signatures as SDIM reads them: each event of
            the window gets what those that share its signatures have in common. 0: none.
        signatures, bits, hash_seed: of the hashes: how many, of how many bits each, and their directions.
        interests: vectors of a user; an item's score is the largest of its products with them.
        time_gaps: attention depends on the time between two events, beside their places.
        hard_negatives: best items of each target's user by exact search, with the items as they were when the epoch
            began, that the target is compared with beside the others; of these, users learn alone. 0: none.
        dropout: in the user's side, in training.
        id_dropout: share of the items of a step that are read without their id in training, so that attributes alone
            say something; without effect where items have none.
        multi_task_weight: weight of a second loss in training, that of the next item's attributes predicted by heads of
            their own (``heads.py``). 0: there are none.
    """

    kind: Literal["two_tower"] = "two_tower"
    dim: int = 64
    attribute_dim: int = 16
    layers: int = 2
    heads: int = 2
    window: int = 50
    long_history: int = 0
    signatures: int = 16
    bits: int = 3
    hash_seed: int = 0
    interests: int = 1
    time_gaps: bool = True
    hard_negatives: int = 0
    dropout: float = 0.2
    id_dropout: float = 0.1
    multi_task_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ConfigError(f"model.heads is {self.heads}; allowed: a divisor of model.dim, which is {self.dim}")
        check_signatures(self.signatures, self.bits, self.hash_seed)
