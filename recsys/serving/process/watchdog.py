"""The pulse: every few seconds a server goes the way that a request goes, to learn whether requests still get through.

A thread that only says it is alive says nothing: what hangs is a native call that keeps the model, or the interpreter's
lock; an event loop; gRPC's own thread, which ends without a word if it cannot start another. So each beat makes a call
over gRPC, has it handled by a thread as calls are, takes the lock of the model after those who wait for theirs, and
passes through the store's loop. Redis is not asked: that is away often enough, and every request bounds that wait.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock

_log = logging.getLogger("recsys.serving")

_EVERY_S = 3.0
_LEAST_MISSED = 5
"""Beats in a row that a server misses before it counts as hung: one may come late."""

Step = Callable[[float], None]
"""One step of the way, in at most so many seconds; TimeoutError if it takes longer."""


@contextmanager
def pulse(steps: Mapping[str, Step], *, every_s: float, said: Callable[[str], None]) -> Iterator[None]:
    """Go through all steps again and again, in a thread, for the duration of a ``with`` block.

    Args:
        steps: by the name that ``said`` is told.
        every_s: time between two beats; each step may take as long.
        said: told after each beat: nothing (an empty text), or which step did not end.
    """
    stop = threading.Event()

    def beat() -> str:
        for name, step in steps.items():
            try:
                step(every_s)
            except TimeoutError:
                return name
            except Exception as error:  # no more threads to be had, for one: a request would fare no better
                return f"{name}: {error}"
        return ""

    def work() -> None:
        rest_s = every_s
        while not stop.wait(rest_s):
            begun_s = time.monotonic()
            said(beat())
            rest_s = max(0.0, begun_s + every_s - time.monotonic())

    thread = threading.Thread(target=work, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(every_s)  # it may hang with what it looks at, which must not keep the server from ending


@contextmanager
def request_path(
    own_address: str | None, threads: Executor, model_lock: FairLock, loop: asyncio.AbstractEventLoop
) -> Iterator[dict[str, Step]]:
    """The steps of a request's way through this server.

    Args:
        own_address: where this process alone listens (:func:`make_own_address`); None to leave gRPC out.
        threads: handle calls.
        model_lock: held while a model runs.
        loop: the store's.
    """
    steps: dict[str, Step] = {
        "a thread to handle a call": lambda timeout_s: _result(threads.submit(int), timeout_s),
        "the lock of the model": partial(_acquire_and_release, model_lock),
        "the store's event loop": lambda timeout_s: _result(asyncio.run_coroutine_threadsafe(_pass(), loop), timeout_s),
    }
    if own_address is None:
        yield steps
        return
    with grpc.insecure_channel(own_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield {"gRPC to answer": partial(_call, health_pb2_grpc.HealthStub(channel)), **steps}


def make_own_address() -> str | None:
    """An address that no other worker shares, and that leaves no file when the process is killed; None: there is none.

    The port of several workers will not do: the system gives a connection to any of them.
    """
    return f"unix-abstract:recsys-{secrets.token_hex(8)}" if sys.platform == "linux" else None


class Watched:
    """Health as the pulse finds it: NOT_SERVING while requests do not get through.

    Args:
        health: the server's.
        services: names of those that ``health`` tells of.
        hang_timeout_s: how long is too long.
        tell: told each beat; None: nobody watches this process, so it logs by itself what it waits for, and all stacks.
    """

    def __init__(
        self,
        health: HealthServicer,
        services: tuple[str, ...],
        hang_timeout_s: float,
        *,
        tell: Callable[[str], None] | None,
    ) -> None:
        self.every_s = min(_EVERY_S, hang_timeout_s / _LEAST_MISSED)
        """How often to beat."""
        self._health = health
        self._services = ("", *services)
        self._too_many = math.ceil(hang_timeout_s / self.every_s)
        self._tell = tell
        self._missed = 0

    def said(self, stuck: str) -> None:
        """What :func:`pulse` says."""
        if self._tell is not None:
            self._tell(stuck)
        hung, self._missed = self._missed >= self._too_many, self._missed + 1 if stuck else 0
        if hung and not stuck:
            self._set(health_pb2.HealthCheckResponse.SERVING)
            _log.warning("requests get through again")
        elif self._missed == self._too_many:
            self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
            if self._tell is None:
                _log.error("no request gets through, waiting for %s; the stacks of all threads follow", stuck)
                faulthandler.dump_traceback(file=2)

    def _set(self, status: Any) -> None:
        for service in self._services:
            self._health.set(service, status)


def _acquire_and_release(model_lock: FairLock, timeout_s: float) -> None:
    """Acquire the lock, or see that others do: a long queue that moves is load."""
    acquired = model_lock.acquired
    try:
        with model_lock.acquire(Deadline.after(timeout_s)):
            pass
    except TimeoutError:
        if model_lock.acquired == acquired:
            raise


def _call(health: health_pb2_grpc.HealthStub, timeout_s: float) -> None:
    try:
        health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        # Any other status is an answer: there are too many calls at a time, or the server drains.
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError from None


def _result(future: Future[Any], timeout_s: float) -> None:
    try:
        future.result(timeout_s)
    finally:
        future.cancel()


async def _pass() -> None:
    pass
