"""How wide the vectors are that a network reads, and of which features they are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """Columns of what a model reads, feature by feature; a numeric feature has one.

    Attributes:
        user_fields: of the user vector: user id, user features, context.
        key_fields: of the query and key vectors: item id and history attributes.
        item_fields: of the item's other features.
    """

    user_fields: tuple[int, ...]
    key_fields: tuple[int, ...]
    item_fields: tuple[int, ...]

    @property
    def user(self) -> int:
        """Columns of the user vector."""
        return sum(self.user_fields)

    @property
    def key(self) -> int:
        """Columns of a query or key vector."""
        return sum(self.key_fields)

    @property
    def item(self) -> int:
        """Columns of the vector of the item's other features."""
        return sum(self.item_fields)
