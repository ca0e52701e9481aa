"""ReleaseSwitch: a worker's part of a switch: it loads what is new while it serves, and changes over when told."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from recsys.errors import ReleaseError
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.routes import LoadedRelease, Routes
from recsys.serving.process.assembly import SharedParts, make_routes, open_loaded_release
from recsys.serving.process.models import open_models
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.startup import prepare_models

_LOW_PRIORITY = 19

T = TypeVar("T")


class ReleaseSwitch:
    """Changes the routes of a server from one plan to another, in two steps. Safe to use from several threads.

    Args:
        slot: holds the routes.
        shared: what all releases use.
        plan: that the routes follow now.
    """

    def __init__(self, slot: ModelSlot, shared: SharedParts, plan: Plan) -> None:
        self._slot = slot
        self._shared = shared
        self.plan = plan
        """The plan in force."""
        self._lock = threading.Lock()
        self._prepared: tuple[Plan, Routes] | None = None

    def prepare(self, plan: Plan) -> None:
        """Load what a plan has and this process has not; calls are answered as before.

        Raises:
            RecsysError: a release cannot be loaded, or is refused: nothing is changed, and what was loaded is closed.
        """
        with self._lock:
            self._drop_prepared()
            have = {release.name: release for release in self._slot.routes().loaded}
            made: dict[str, LoadedRelease] = {}
            try:
                for name, release in plan.releases.items():
                    if name not in have:
                        made[name] = at_low_priority(partial(self._load, release))
                self._prepared = plan, make_routes(plan, {**have, **made})
            except BaseException:
                _close(made)
                raise

    def _load(self, release: PlannedRelease) -> LoadedRelease:
        models = open_models(release, self._shared.settings, verify="sizes")
        prepare_models(models, self._shared.settings)
        return open_loaded_release(release, models, self._shared)

    def commit(self, number: int) -> threading.Thread:
        """Change over to the plan of that number, which was prepared; returns at once.

        Returns:
            The thread that closes what the plan lacks, after its last call.

        Raises:
            ReleaseError: it was not prepared.
        """
        with self._lock:
            if self._prepared is None or self._prepared[0].number != number:
                raise ReleaseError(f"plan {number} is not prepared")
            (self.plan, routes), self._prepared = self._prepared, None
            return self._slot.replace(routes, timeout_s=self._shared.settings.drain_timeout_s)

    def abort(self) -> None:
        """Give up what was prepared."""
        with self._lock:
            self._drop_prepared()
        give_memory_back()

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            (_, routes), self._prepared = self._prepared, None
            used = {id(release) for release in self._slot.routes().loaded}
            _close({release.name: release for release in routes.loaded if id(release) not in used})


def give_memory_back() -> None:
    """Return the memory of what was closed to the system: the C library keeps freed pieces between used ones."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def at_low_priority(work: Callable[[], T]) -> T:
    """Run something in a thread that gets a core only when the others there have nothing to do (Linux).

    A thread of its own, which ends with the work: to raise a priority again takes a right.
    """

    def lowered() -> T:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        return pool.submit(lowered).result()


def _close(releases: dict[str, LoadedRelease]) -> None:
    for release in releases.values():
        release.close()
