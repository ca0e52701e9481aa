"""Widths of the vectors that a network reads, and the features they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Widths:
    """Columns of what a model reads, feature by feature; a numeric feature has one.

    Attributes:
        user_fields: of the user vector: user id, user features, context.
        key_fields: of the query and key vectors: item id and history attributes.
        item_fields: of the item's other features.
        stand_ins: which key fields items do not have: a candidate's part of these is the vector of the unknown id.
    """

    user_fields: tuple[int, ...]
    key_fields: tuple[int, ...]
    item_fields: tuple[int, ...]
    stand_ins: tuple[int, ...] = ()

    @property
    def user(self) -> int:
        """Columns of the user vector."""
        return sum(self.user_fields)

    @property
    def key(self) -> int:
        """Columns of a query or key vector."""
        return sum(self.key_fields)

    @property
    def key_parts(self) -> tuple[slice, ...]:
        """Columns of each key field."""
        ends = tuple(accumulate(self.key_fields))
        return tuple(slice(end - width, end) for end, width in zip(ends, self.key_fields, strict=True))

    @property
    def item(self) -> int:
        """Columns of the vector of the item's other features."""
        return sum(self.item_fields)
