"""Work on a store of releases in processes that end themselves by SIGKILL at a step: a call that touches files.

``Forker`` is a process that imports all this once and forks for each piece of work, so that a test can kill many.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recsys.releases.changes import rolled_back
from recsys.releases.prune import prune
from recsys.releases.store import change_served, push_release
from support.paths import ROOT

_STEPS = ("open", "os.", "shutil.", "fcntl.")
"""Beginnings of the audit events that count: https://docs.python.org/3/library/audit_events.html."""


def push_both(store: Path, bundles: Path) -> None:
    """Push the second bundle with the retrieval bundle."""
    push_release(store, ranking=bundles / "second", retrieval=bundles / "finder")


def push_first(store: Path, bundles: Path) -> None:
    """Push the first bundle."""
    push_release(store, ranking=bundles / "first", retrieval=None)


def go_back(store: Path, bundles: Path) -> None:
    """Roll back."""
    change_served(store, lambda served: rolled_back(served, "tiny"), why="a test")


def keep_one(store: Path, bundles: Path) -> None:
    """Prune all but what is needed."""
    prune(store, keep=1)


WORK: dict[str, Callable[[Path, Path], None]] = {
    work.__name__: work for work in (push_both, push_first, go_back, keep_one)
}


class Forker:
    """Runs work in processes of its own; use as a context manager. ``module`` is one that calls :func:`serve`."""

    def __init__(self, bundles: Path, module: str = "support.killed") -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(bundles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Forker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def steps_of(self, work: str, store: Path) -> int:
        """Run work; returns the number of its steps."""
        ((code, steps),) = self._run([(work, str(store), 0)])
        assert code == 0
        return steps

    def killed_at(self, step: int, work: str, store: Path) -> bool:
        """Run work and kill it before a step, from 1; False if it ended before: threads and locks move steps."""
        ((code, _),) = self._run([(work, str(store), step)])
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def together(self, work: str, store: Path, count: int) -> None:
        """Run the same work in several processes at once; all must end well."""
        assert {code for code, _ in self._run([(work, str(store), 0)] * count)} == {0}

    def _run(self, work: list[tuple[str, str, int]]) -> list[tuple[int, int]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        return [(code, steps) for code, steps in json.loads(self._process.stdout.readline())]


def serve(work: Mapping[str, Callable[[Path, Path], None]], bundles: Path) -> None:
    """Do the work that a :class:`Forker` asks for, each in a process of its own, until it asks for no more."""
    for line in sys.stdin:
        children = [_fork(work[name], Path(store), bundles, step) for name, store, step in json.loads(line)]
        ended = []
        for pid, reading in children:
            with os.fdopen(reading) as said:
                steps = int(said.read() or 0)
            ended.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), steps))
        print(json.dumps(ended), flush=True)


def _fork(work: Callable[[Path, Path], None], store: Path, bundles: Path, last: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return pid, reading
    count = 0

    def step(event: str, arguments: Any) -> None:
        nonlocal count
        if event.startswith(_STEPS):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(step)
        work(store, bundles)
        os.write(writing, str(count).encode())
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(WORK, Path(sys.argv[1]))
