"""Hyper-parameters of the two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recsys.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Two towers.

    Attributes:
        dim: width of an item's and of an interest's vector.
        attribute_dim: width of the table of an attribute: of an item, of a user, of an event.
        layers: blocks of self-attention over the history.
        heads: of each; they divide ``dim``.
        window: newest events that attention reads, whatever ``history.recent`` leaves to ranking models.
        interests: vectors of a user; an item's score is the largest of its products with them.
        time_gaps: attention depends on the time between two events, beside their places.
        hard_negatives: best items of each target's user by exact search, with the items as they were when the epoch
            began, that the target is compared with beside the others; of these, users learn alone. 0: none.
        dropout: in the user's side, in training.
        id_dropout: share of the items of a step that are read without their id in training, so that attributes alone
            say something; without effect where items have none.
    """

    kind: Literal["two_tower"] = "two_tower"
    dim: int = 64
    attribute_dim: int = 16
    layers: int = 2
    heads: int = 2
    window: int = 50
    interests: int = 1
    time_gaps: bool = True
    hard_negatives: int = 0
    dropout: float = 0.2
    id_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ConfigError(f"model.heads is {self.heads}; allowed: a divisor of model.dim, which is {self.dim}")
