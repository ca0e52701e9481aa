"""``faults``: calls that fail while parts are killed, made by the Python client as it comes: with its retries.

``redis``: the server's own Redis is killed again and again, and comes back by itself. ``worker``: one of two workers is
killed every few seconds. ``sigterm``: two servers are ended by SIGTERM and started again in turn, as in a rolling
release; callers know both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say

from reliable import stage

if TYPE_CHECKING:
    from ranking.setting import Histories, Setting

    from reliable.load import ClientCalls

_MOST_S = 3_600.0
_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Kills of each part, and the load.

    Attributes:
        redis_kills: of the private Redis.
        redis_every_s: seconds between its return and the next; one that ends sooner is started again ever later.
        worker_kills: of workers.
        worker_every_s: seconds between two of them.
        rounds: restarts of both servers.
        rate: calls per second; it is no measure of speed.
    """

    redis_kills: int
    redis_every_s: float
    worker_kills: int
    worker_every_s: float
    rounds: int
    rate: float = 60.0
    clients: int = 8
    items: int = 50_000
    users: int = 64
    events: int = 200
    requests: int = 256
    candidates: int = 100


SIZES = {
    "full": Size(redis_kills=20, redis_every_s=10.5, worker_kills=24, worker_every_s=5.0, rounds=5),
    "quick": Size(redis_kills=4, redis_every_s=1.0, worker_kills=3, worker_every_s=3.0, rounds=1, users=32),
    "tiny": Size(redis_kills=1, redis_every_s=1.0, worker_kills=1, worker_every_s=1.0, rounds=1, items=1_000, users=8,
                 events=50, requests=8, candidates=20, rate=20.0, clients=4),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Stage that all parts are measured on."""

    folder: Path
    size: Size
    setting: Setting
    histories: Histories
    bundle: Path
    on: dict[str, Any]

    @property
    def requests(self) -> list[Any]:
        """Requests of users with histories."""
        return self.setting.requests(self.histories, self.size.requests)


def faults(folder: Path, size: Size) -> Iterator[Line]:
    """Measure calls that fail, for each kind of fault."""
    from ranking import setting as rank_setting

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        scene = Scene(
            folder=folder,
            size=size,
            setting=setting,
            histories=histories,
            bundle=bundle,
            on=machine(stage.LIBRARIES, **asdict(size)),
        )
        yield _redis(scene)
        yield _worker(scene)
        yield _sigterm(scene)


def _redis(scene: Scene) -> Line:
    """The server has a Redis of its own, with items and histories; it is killed, and comes back each time."""
    from ranking import setting as rank_setting

    from recsys.feature_store.embedded.server import EmbeddedRedis

    own = scene.folder / "own"
    with rank_setting.redis_with_items(own, items=scene.size.items, candidates=scene.size.candidates) as filled:
        rank_setting.fill(filled, length=scene.size.events, users=scene.size.users, items=scene.size.items)
    data = own / "redis"
    back_s: list[float] = []

    def kill(redis: EmbeddedRedis) -> None:
        before = _redis_pid(redis.url)
        assert before is not None, "no Redis to kill"
        began_s = time.monotonic()
        os.kill(before, signal.SIGKILL)
        _until(lambda: _redis_pid(redis.url) not in (None, before), "the private Redis is not back")
        back_s.append(time.monotonic() - began_s)
        time.sleep(scene.size.redis_every_s)

    with stage.server(scene.folder, scene.bundle, "redis", "--port", "0", RECSYS_REDIS_DIR=str(data)) as found:
        _, facts, log = found
        with EmbeddedRedis(data) as joined:  # the server's; it is not started again from here
            kills = [partial(kill, joined)] * scene.size.redis_kills
            calls = _calls_during(scene, [facts["address"]], kills)
    return _line(
        scene,
        "redis",
        calls,
        kills=len(kills),
        back_s=rounded(max(back_s)),
        log=_log_counts(log, "it is started again"),
    )


def _redis_pid(url: str) -> int | None:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=2.0) as client:
            facts: dict[str, Any] = client.info("server")  # type: ignore[assignment]
        return int(facts["process_id"])
    except redis.RedisError:
        return None


def _worker(scene: Scene) -> Line:
    """One of two workers is killed, in turns."""
    arguments = ("--port", "0", "--workers", "2", "--redis-url", scene.setting.redis_url)
    with stage.server(scene.folder, scene.bundle, "worker", *arguments) as (_, facts, log):
        killed: list[int] = []

        def kill() -> None:
            time.sleep(scene.size.worker_every_s)
            now = stage.pids(scene.folder, "worker")
            victim = next((pid for pid in now if pid not in killed), None)
            if victim is not None and len(now) == 2:  # the other one serves meanwhile
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)

        calls = _calls_during(scene, [facts["address"]], [kill] * scene.size.worker_kills)
    return _line(scene, "worker", calls, kills=len(killed), log_lines=_log_counts(log, "was killed by SIGKILL"))


def _sigterm(scene: Scene) -> Line:
    """Two servers are restarted in turn; each is back before the other one goes."""
    from recsys.serving.process.listening.ports import reserved_port

    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):  # free ones, which stay the servers' over their restarts
            with reserved_port("127.0.0.1", 0) as port:
                ports.append(port)
        running: list[contextlib.ExitStack] = []

        def start(number: int) -> contextlib.ExitStack:
            own = contextlib.ExitStack()
            arguments = ("--port", str(ports[number]), "--redis-url", scene.setting.redis_url)
            own.enter_context(stage.server(scene.folder, scene.bundle, f"sigterm-{number}", *arguments))
            return own

        def end_all() -> None:
            for each in running:
                each.close()

        stack.callback(end_all)
        running += [start(number) for number in range(2)]

        def restart(number: int) -> None:
            time.sleep(1.0)
            running[number].close()  # SIGTERM, and its end is waited for
            running[number] = start(number)

        addresses = [f"127.0.0.1:{port}" for port in ports]
        restarts = [partial(restart, number % 2) for number in range(2 * scene.size.rounds)]
        calls = _calls_during(scene, addresses, restarts)
    return _line(scene, "sigterm", calls, restarts=len(restarts))


def _calls_during(scene: Scene, addresses: list[str], happening: list[Callable[[], None]]) -> ClientCalls:
    """Calls that are made while the faults happen one after another, and a little longer."""
    from harness.workers import worker

    from reliable import load

    size = scene.size
    stop = multiprocessing.get_context("spawn").Event()
    arguments = (addresses, scene.requests, size.clients, size.rate, stop)
    with worker(load.by_client, *arguments) as measure, ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure, _MOST_S)
        try:
            time.sleep(1.0)
            for number, fault in enumerate(happening):
                fault()
                say(f"fault {number + 1} of {len(happening)}")
            time.sleep(1.0)
        finally:
            stop.set()
        calls: ClientCalls = running.result()
    return calls


def _line(scene: Scene, kind: str, calls: ClientCalls, **details: Any) -> Line:
    import numpy as np

    return line(
        f"faults.failed_calls.{kind}", calls.failed, "calls", higher_is_better=False, target=0,
        compared_with="nothing: calls that fail of all that the Python client makes, with its retries",
        calls=calls.calls, errors=calls.errors, degraded=calls.degraded,
        p999_ms=rounded(1e3 * float(np.percentile(calls.took_s, 99.9))) if len(calls.took_s) else None,
        slowest_ms=rounded(1e3 * float(calls.took_s.max())) if len(calls.took_s) else None,
        **details, on=scene.on,
    )  # fmt: skip


def _log_counts(log: Path, text: str) -> int:
    """Lines of a log with a text."""
    return sum(text in each for each in log.read_text(errors="replace").splitlines())


def _until(true: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not true():
        if time.monotonic() > deadline_s:
            raise RuntimeError(otherwise)
        time.sleep(0.02)
