"""Stores of tiny releases for tests, servers that follow them, and callers that check every answer."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recsys.client import Client
from recsys.client.types import RpcError
from recsys.releases.changes import promoted
from recsys.releases.served import Served
from recsys.releases.status import read_statuses
from recsys.releases.store import change_served, push_release
from support.tiny_bundle import ITEMS, reference_scores, write_tiny_bundle
from support.tiny_server import ServerProcess, server_process
from support.tiny_workers import until

CANDIDATES, AGE = [5, 1, 3], 1.0


class TinyStore:
    """A store of releases of the tiny model whose items have vectors of different lengths.

    Attributes:
        path: the folder.
        expected: release -> scores of ``CANDIDATES`` for a user of ``AGE`` without events.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store"
        self.expected: dict[str, Any] = {}
        self._folder = folder
        self._bundles = 0

    def push(self, factor: float = 1.0, **bundle: Any) -> str:
        """Push a release whose items' vectors are so many times those of the tiny bundle; its name."""
        self._bundles += 1
        path = self._folder / f"bundle-{self._bundles}"
        write_tiny_bundle(path, items=(factor * ITEMS).astype(np.float32), **bundle)
        name = push_release(self.path, ranking=path, retrieval=None).name
        self.expected[name] = reference_scores(events=[], candidates=CANDIDATES, age=factor * AGE)
        return name

    def push_bundle(self, path: Path) -> str:
        """Push a bundle that is there; its name."""
        return push_release(self.path, ranking=path, retrieval=None).name

    def promote(self, release: str, *, model: str = "tiny") -> Served:
        """Make a release live, without the guards."""
        return change_served(self.path, lambda served: promoted(served, model, release), why="a test")

    def status(self) -> Any:
        """The status of the only server."""
        (seen,) = read_statuses(self.path)[0]
        return seen.status

    def refused(self) -> str:
        """Wait for the server to refuse something; the reason."""
        return str(until(lambda: self.path.joinpath("status").exists() and self.status().refused))


@contextmanager
def release_server(folder: Path, store: TinyStore, redis_url: str, **more: str) -> Iterator[ServerProcess]:
    """A server of the store's releases with two workers."""
    folder.mkdir(exist_ok=True)
    variables = {"RECSYS_RELEASES": str(store.path), "REDIS_URL": redis_url, "RECSYS_WORKERS": "2"}
    variables |= {"RECSYS_RELEASE_POLL_S": "0.05", "RECSYS_STORE_TIMEOUT_MS": "5000", **more}
    with server_process(folder, **variables) as server:
        yield server


def live(server: ServerProcess, model: str = "") -> str:
    """The release that answers a call for a model's name."""
    with Client(server.address) as client:
        return client.rank(
            user=1, candidates=CANDIDATES[1:], features={"age": AGE}, model=model, timeout_s=20.0
        ).release


def facts(folder: Path) -> dict[str, Any]:
    """Content of the ready file now."""
    found: dict[str, Any] = json.loads((folder / "ready.json").read_text())
    return found


class Load:
    """Threads that call a server until the block ends; every answer is compared with its release's scores.

    Attributes:
        answers: count by release.
        order: release of each answer, by thread.
        failed: errors.
        wrong: answers with scores that are not those of their release.
    """

    def __init__(self, address: str, store: TinyStore, *, threads: int = 4, pause_s: float = 0.002) -> None:
        self.address, self.store, self.pause_s = address, store, pause_s
        self.answers: Counter[str] = Counter()
        self.order: list[list[str]] = [[] for _ in range(threads)]
        self.failed: list[RpcError] = []
        self.wrong: list[Any] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def until_answered(self, release: str, more: int = 20) -> None:
        """Wait for so many answers more of a release."""
        goal = self.answers[release] + more
        until(lambda: self.answers[release] >= goal)

    def _call(self, number: int) -> None:
        user = 1_000 + number
        with Client(self.address) as client:
            while not self._stop.is_set():
                try:
                    answer = client.rank(user=user, candidates=CANDIDATES, features={"age": AGE}, timeout_s=20.0)
                except RpcError as error:
                    self.failed.append(error)
                    time.sleep(0.02)
                    continue
                self.answers[answer.release] += 1
                if not self.order[number] or self.order[number][-1] != answer.release:
                    self.order[number].append(answer.release)
                expected = self.store.expected[answer.release]
                if answer.degraded or not np.allclose(answer.scores, expected, atol=1e-6):
                    self.wrong.append(answer)
                time.sleep(self.pause_s)
