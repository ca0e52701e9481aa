"""RequestNames: names of the features that requests may give, of all releases that are loaded.

A caller sends one request, whichever release answers it. So a release passes over what only another one declares, and
a rollback fails nobody who sends what the newer release reads. A name that no release declares stays an error.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from recsys.errors import InvalidInputError, nearest
from recsys.features.encode import request_column
from recsys.features.feature_set import FeatureSet


class RequestNames:
    """Counts the releases that declare each name. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.known: frozenset[str] = frozenset()
        """The names that any release declares."""

    @contextmanager
    def loaded(self, features: FeatureSet) -> Iterator[None]:
        """Know the names of a release for the duration of a ``with`` block."""
        names = request_names(features)
        self._change(names, 1)
        try:
            yield
        finally:
            self._change(names, -1)

    def _change(self, names: frozenset[str], by: int) -> None:
        with self._lock:
            for name in names:
                self._counts[name] += by
            self.known = frozenset(name for name, count in self._counts.items() if count > 0)


def request_names(features: FeatureSet) -> frozenset[str]:
    """Names of the features that a request to a release may give."""
    return frozenset(f.name for f in (*features.user, *features.context))


def values_of(
    own: frozenset[str], values: Mapping[str, Sequence[Any]], others: frozenset[str]
) -> Mapping[str, Sequence[Any]]:
    """A request's values but for those whose names are not its release's ``own`` but of ``others``.

    >>> values_of(frozenset({"age"}), {"age": [3], "device": [1], "aeg": [2]}, frozenset({"device"}))
    {'age': [3], 'aeg': [2]}
    """
    if values.keys() <= own:
        return values
    return {name: given for name, given in values.items() if name in own or name not in others}


def check_values(features: FeatureSet, values: Mapping[str, Sequence[Any]], others: frozenset[str]) -> None:
    """Refuse values that no release takes, or not of this kind; ``others`` are names that another one declares.

    Raises:
        InvalidInputError: no release declares the name, or the value is not as this one declares it.
    """
    if not values:
        return
    own = {each.name: each for each in (*features.user, *features.context)}
    for name, given in values_of(frozenset(own), values, others).items():
        if name not in own:
            raise InvalidInputError(f"unknown feature {name!r}: {nearest(name, own)}")
        request_column(own[name], given)
