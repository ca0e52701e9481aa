"""CandidateIndex: the interface of everything that finds a user's best items among all.

Shapes use ``K`` items found, ``N`` items to leave out, ``S`` events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from recsys.arrays import Float32Array, Int64Array
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events
from recsys.features.names import Names


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The best items of a user.

    Attributes:
        items: their keys, best first, distinct; int64, shape [K].
        scores: of any size, higher is better; float32, shape [K].
        known: True if the model knows the user; if not, these are the most popular items.
        history_known, history_unknown: events of the history that are of items that the model knows, and of others;
            0 where it reads none.
    """

    items: Int64Array
    scores: Float32Array
    known: bool
    history_known: int = 0
    history_unknown: int = 0


class CandidateIndex(Protocol):
    """Finds items for a user. Safe to use from several threads."""

    @property
    def model(self) -> str:
        """Name of the retrieval model."""
        ...

    @property
    def version(self) -> str:
        """Version of the retrieval model."""
        ...

    @property
    def features(self) -> FeatureSet:
        """FeatureSet that declares the ids of users and items."""
        ...

    @property
    def names(self) -> Names | None:
        """Names of the items, where they are named by strings; else None, and a key is the item's id."""
        ...

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of a history's events that a user is known by; empty: users are known by their ids."""
        ...

    def retrieve(self, user_key: int, seen: Int64Array, k: int, events: Events | None = None) -> Retrieved:
        """Find the k items with the highest scores; fewer where fewer are left.

        Args:
            user_key: key of the user's id; of any user.
            seen: keys of items to leave out, shape [N], N >= 0; unknown ones and repetitions do no harm.
            k: items to find, 1 or more.
            events: of the user that count, oldest first, shape [S]; looked at if there are :attr:`history_fields`.

        Raises:
            InvalidInputError: k is out of range.
        """
        ...
