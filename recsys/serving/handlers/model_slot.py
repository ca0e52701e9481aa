"""ModelSlot: the models that calls are answered by, replaceable while calls run.

A call takes what it finds at its start and keeps it to its end; what was replaced is closed after its last call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from recsys.features.names import Names
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModels:
    """Models that answer calls together, and what belongs to them alone.

    Attributes:
        ranker: None: there is no ranking model.
        recommender: None: there is no retrieval model.
        names: the texts of string ids that came with them, by embedding table.
        close: ends what belongs to them, such as the thread that writes states; called once.
    """

    ranker: Ranker | None
    recommender: Recommender | None
    close: Callable[[], None]
    names: Mapping[str, Names] = field(default_factory=dict)


class _Generation:
    """Models between two replacements, and the number of calls that use them."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models
        self.calls = 0


class ModelSlot:
    """Holds the models of a server. Safe to use from several threads.

    Args:
        models: the first ones; closed here, as all that follow.
    """

    def __init__(self, models: ServedModels) -> None:
        self._current = _Generation(models)
        self._call_ended = threading.Condition()

    @contextmanager
    def current(self) -> Iterator[ServedModels]:
        """Use the models there are now for the duration of a ``with`` block, whatever replaces them meanwhile."""
        with self._call_ended:
            mine = self._current
            mine.calls += 1
        try:
            yield mine.models
        finally:
            with self._call_ended:
                mine.calls -= 1
                if mine is not self._current:
                    self._call_ended.notify_all()

    def names(self) -> Mapping[str, Names]:
        """Texts of string ids that came with the models there are now, by embedding table."""
        with self._call_ended:
            return self._current.models.names

    def replace(self, models: ServedModels, *, timeout_s: float) -> None:
        """Answer calls by other models from now on, and close the ones before after their last call.

        Args:
            models: the new ones.
            timeout_s: longest wait for that call; later ones end on closed models, which costs them no answer, only
                what would have been written in the background.
        """
        with self._call_ended:
            before, self._current = self._current, _Generation(models)
            self._call_ended.wait_for(lambda: not before.calls, timeout_s)
        before.models.close()

    def close(self) -> None:
        """Close the models; after the last call, and once."""
        self._current.models.close()
