"""ModelSlot: the releases that calls are answered by, replaceable while calls run.

A call takes what it finds at its start and keeps it to its end; a release that is named no more is closed after its
last call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recsys.features.names import Names
from recsys.serving.handlers.routes import LoadedRelease, Routes


class _Generation:
    """Routes between two replacements, and the number of calls that use them."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.calls = 0


class ModelSlot:
    """Holds the routes of a server. Safe to use from several threads.

    Args:
        routes: the first ones; their releases are closed here, as all that follow.
        on_closed: called after releases were closed, from the thread that did it.
    """

    def __init__(self, routes: Routes, *, on_closed: Callable[[], None] = lambda: None) -> None:
        self._current = _Generation(routes)
        self._call_ended = threading.Condition()
        self._left: list[_Generation] = []
        self._closing: list[threading.Thread] = []
        self._on_closed = on_closed

    @contextmanager
    def current(self) -> Iterator[Routes]:
        """Use the routes there are now for the duration of a ``with`` block, whatever replaces them meanwhile."""
        with self._call_ended:
            mine = self._current
            mine.calls += 1
        try:
            yield mine.routes
        finally:
            with self._call_ended:
                mine.calls -= 1
                if mine is not self._current:
                    self._call_ended.notify_all()

    def routes(self) -> Routes:
        """The routes there are now; a call uses :meth:`current`."""
        with self._call_ended:
            return self._current.routes

    def names(self) -> Mapping[str, Names]:
        """Texts of string ids that came with the releases there are now, by embedding table."""
        names: dict[str, Names] = {}
        for release in reversed(self.routes().loaded):
            names.update(release.names)
        return names

    def replace(self, routes: Routes, *, timeout_s: float) -> threading.Thread:
        """Answer calls by other routes from now on; returns at once.

        Args:
            routes: the new ones.
            timeout_s: longest wait for the last call of a release that they lack; later ones end on a closed release,
                which costs them no answer, only what would have been written in the background.

        Returns:
            The thread that closes such releases, and ends then.
        """
        with self._call_ended:
            before = [self._current]  # emptied by the thread: this frame may outlast its work
            self._current = _Generation(routes)
            self._left.extend(before)
            thread = threading.Thread(target=self._close_left, args=(before, timeout_s), name="closer", daemon=True)
            self._closing = [*(other for other in self._closing if other.is_alive()), thread]
        thread.start()
        return thread

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Close all releases; after the last call, and once."""
        for thread in self._closing:
            thread.join(timeout_s)
        for release in self._current.routes.loaded:
            release.close()

    def _close_left(self, generation: list[_Generation], timeout_s: float) -> None:
        # No frame may hold a release when on_closed comes: it is to give their memory back.
        if _close_all(self._unused(generation.pop(), timeout_s)):
            self._on_closed()

    def _unused(self, generation: _Generation, timeout_s: float) -> list[LoadedRelease]:
        """Wait for the last call of routes that were replaced; returns the releases that nothing else names."""
        with self._call_ended:
            self._call_ended.wait_for(lambda: not generation.calls, timeout_s)
            self._left.remove(generation)
            used = {id(release) for other in (self._current, *self._left) for release in other.routes.loaded}
            return [release for release in generation.routes.loaded if id(release) not in used]


def _close_all(releases: list[LoadedRelease]) -> int:
    """Close releases and forget them; how many."""
    count = len(releases)
    while releases:
        releases.pop().close()
    return count
