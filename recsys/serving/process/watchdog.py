"""Watchdog: every few seconds a server probes the path of a request, to learn whether requests still get through.

A thread that only reports that it is alive proves nothing: what hangs is a native call that keeps the model, or the
interpreter's lock; an event loop; gRPC's own thread, which ends silently if it cannot start another. So each round of
probes makes a call over gRPC, runs a task on a handler thread, acquires the model's lock after those who wait for it,
and passes through the store's loop. Redis is not probed: it is away often enough, and every request bounds that wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.logs import log_stacks
from recsys.serving.process.listening.rooms import Room
from recsys.serving.rpc.health import Health

_log = logging.getLogger("recsys.serving")

_INTERVAL_S = 3.0
_MIN_FAILURES = 5
"""Rounds in a row that fail before a server counts as hung: one may come late."""

_STATUS = health_pb2.HealthCheckResponse

Probe = Callable[[float], None]
"""Check one part of the path in at most so many seconds; TimeoutError if it takes longer."""


@contextmanager
def run_watchdog(probes: Mapping[str, Probe], *, interval_s: float, report: Callable[[str], None]) -> Iterator[None]:
    """Run all probes again and again, in a thread, for the duration of a ``with`` block.

    Args:
        probes: by the name that ``report`` gets.
        interval_s: time between two rounds; each probe may take as long.
        report: called after each round with the name of the probe that failed, or an empty text.
    """
    stop = threading.Event()

    def failed_probe() -> str:
        for name, probe in probes.items():
            try:
                probe(interval_s)
            except TimeoutError:
                return name
            except Exception as error:  # no more threads to be had, for one: a request would fare no better
                return f"{name}: {error}"
        return ""

    def work() -> None:
        wait_s = interval_s
        while not stop.wait(wait_s):
            started_s = time.monotonic()
            report(failed_probe())
            wait_s = max(0.0, started_s + interval_s - time.monotonic())

    thread = threading.Thread(target=work, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(interval_s)  # it may hang with what it probes, which must not keep the server from ending


@contextmanager
def request_path_probes(
    private_address: str | None,
    calls: Room,
    model_lock: FairLock,
    loop: asyncio.AbstractEventLoop,
    *,
    arrived: Callable[[], int] = int,
) -> Iterator[dict[str, Probe]]:
    """Probes of a request's path through this server, by the name of the part that each checks.

    Args:
        private_address: where this process alone listens (:func:`make_private_address`); None to leave gRPC out.
        calls: the threads that handle calls.
        model_lock: held while a model runs.
        loop: the store's.
        arrived: counts the calls that gRPC has handed over.
    """
    probes: dict[str, Probe] = {
        "a thread to handle a call": partial(_probe_room, calls),
        "the lock of the model": partial(_probe_lock, model_lock),
        "the store's event loop": lambda timeout_s: _result(
            asyncio.run_coroutine_threadsafe(_no_op(), loop), timeout_s
        ),
    }
    if private_address is None:
        yield probes
        return
    with grpc.insecure_channel(private_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield {"gRPC to answer": partial(_probe_grpc, health_pb2_grpc.HealthStub(channel), arrived), **probes}


def make_private_address() -> str | None:
    """Name an address of this process alone, which leaves no file when the process is killed; None: there is none.

    The port of several workers will not do: the system gives a connection to any of them.
    """
    return f"unix-abstract:recsys-{secrets.token_hex(8)}" if sys.platform == "linux" else None


class HealthReporter:
    """Set a server's gRPC health: NOT_SERVING while requests do not get through, or no model can answer them.

    Args:
        health: the server's.
        services: gives names whose status is set, besides the server's own.
        hang_timeout_s: for how long requests may not get through before the status changes.
        on_heartbeat: gets each report, for a supervisor; None: this process has none, and logs by itself what it waits
            for, and all stacks.
        damage: looks at what is served; returns why none of it can answer, or an empty text.
        models: gives further names, of what is of no use then.
        on_changed: told if it serves, whenever that has changed.
    """

    def __init__(
        self,
        health: Health,
        services: Callable[[], Sequence[str]],
        hang_timeout_s: float,
        *,
        on_heartbeat: Callable[[str], None] | None,
        damage: Callable[[], str] = str,
        models: Callable[[], Sequence[str]] = tuple,
        on_changed: Callable[[bool], None] = lambda serves: None,
    ) -> None:
        self.interval_s = min(_INTERVAL_S, hang_timeout_s / _MIN_FAILURES)
        """Time between two rounds of probes."""
        self._health = health
        self._services = services
        self._models = models
        self._max_failures = math.ceil(hang_timeout_s / self.interval_s)
        self._on_heartbeat = on_heartbeat
        self._damage = damage
        self._on_changed = on_changed
        self._failures = 0
        self._damaged = False

    def report(self, stuck: str) -> None:
        """Take a report of :func:`run_watchdog`: the probe that failed, or an empty text."""
        if self._on_heartbeat is not None:
            self._on_heartbeat(stuck)
        was_hung, was_damaged = self._failures >= self._max_failures, self._damaged
        self._failures = self._failures + 1 if stuck else 0
        hung, damage = self._failures >= self._max_failures, self._damage()
        self._damaged = bool(damage)
        if hung and not was_hung and self._on_heartbeat is None:
            log_stacks(_log, "no request gets through, waiting for %s; the stacks of all threads follow", stuck)
        if was_hung and not hung:
            _log.warning("requests get through again")
        if self._damaged and not was_damaged:
            _log.error("nothing that is served can answer, and health says so: %s", damage)
        if was_damaged and not self._damaged:
            _log.warning("what is served can answer again")
        if (hung, self._damaged) != (was_hung, was_damaged):
            self._on_changed(not hung and not self._damaged)
            models = ("", *self._models())
            for service in {*self._services(), *models}:
                good = not hung and not (self._damaged and service in models)
                self._health.set(service, _STATUS.SERVING if good else _STATUS.NOT_SERVING)


def _probe_room(calls: Room, timeout_s: float) -> None:
    """Run something in a thread, or see that calls end meanwhile: threads that are all busy are load."""
    completed = calls.completed
    try:
        _result(calls.submit(int), timeout_s)
    except TimeoutError:
        if calls.completed == completed:
            raise


def _probe_lock(model_lock: FairLock, timeout_s: float) -> None:
    """Acquire the lock, or see that others get it: a long queue that moves is load."""
    acquired = model_lock.acquired
    try:
        with model_lock.acquire(Deadline.after(timeout_s)):
            pass
    except TimeoutError:
        if model_lock.acquired == acquired:
            raise


def _probe_grpc(health: health_pb2_grpc.HealthStub, arrived: Callable[[], int], timeout_s: float) -> None:
    """Have health checked, or see that gRPC hands calls over meanwhile: a flood of calls is load."""
    before = arrived()
    try:
        health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        # Any other status is an answer: there are too many calls at a time, or the server drains.
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and arrived() == before:
            raise TimeoutError from None


def _result(future: Future[Any], timeout_s: float) -> None:
    try:
        future.result(timeout_s)
    finally:
        future.cancel()


async def _no_op() -> None:
    pass
