"""A training over several hosts: a network namespace each, ``recsys torchrun`` on each, and ways to lose one.

A host keeps its address, as a machine that starts again does, or a pod of a Job, which has its name from its index.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log
from support.network import Network, network
from support.paths import ROOT

PORT = 29400
LIMIT_S = 300.0
"""Longest wait for anything, on a busy machine."""

SMALL = (
    *("data.recent=10", "model.attention=[16,8]", "model.head=[16]", "model.dropout=0", "tables.dim=8"),
    *("tables.learning_rate=0.02", "train.epochs=1", "train.checkpoint_steps=5"),
)


def write_log(folder: Path, *, users: int) -> Path:
    """A prepared log of so many users, 100 events each; what ``data.dataset`` takes."""
    prepare_movielens(make_synthetic_log(users=users, events_per_user=100, items=200), folder)
    (log,) = folder.iterdir()
    return log


class TrainingHosts:
    """A run and its hosts, numbered from 1; the first is where they meet."""

    def __init__(self, hosts: Network, folder: Path, *, cores: Sequence[int] = ()) -> None:
        self.hosts, self.folder = hosts.hosts, folder
        self._cores = cores
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self,
        *numbers: int,
        settings: Sequence[str],
        run: str = "run",
        restarts: int = 0,
        of: int | None = None,
        **variables: str,
    ) -> None:
        """Start ``recsys torchrun`` on hosts, each with one process; ``of``: hosts of the run, default all."""
        for number in numbers:
            host, core = self.hosts[number], self._cores[number % len(self._cores)] if self._cores else None
            pinned = ["taskset", "-c", str(core)] if core is not None else []
            command = [*host.under, *pinned, sys.executable, "-m", "recsys.cli", "torchrun"]
            command += [f"--nnodes={of or len(self.hosts)}", f"--node-rank={number - 1}", f"--max-restarts={restarts}"]
            command += [f"--master-addr={self.hosts[1].address}", f"--master-port={PORT}"]
            command += ["-m", "recsys.cli", "train", "din", *settings, "--run-dir", str(self.folder / run), "--resume"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
            environment |= variables
            with (self.folder / f"host-{number}.log").open("ab") as log:
                self.processes[number] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def said(self, number: int) -> str:
        """Everything that a host's processes have said."""
        return (self.folder / f"host-{number}.log").read_text()

    def wait_for_checkpoint(self, run: str = "run", *, steps: int = 1) -> int:
        """Wait for a checkpoint that is not the present one; its time of writing, in ns."""
        file = self.folder / run / "checkpoint.pt"

        def written() -> int:
            return file.stat().st_mtime_ns if file.exists() else 0

        for _ in range(steps):
            before = written()
            self._until(lambda before=before: written() != before)  # type: ignore[misc]
        return written()

    def wait_until_said(self, words: str, *numbers: int, times: int = 1) -> None:
        """Wait until hosts have said something."""
        self._until(lambda: all(self.said(number).count(words) >= times for number in numbers))

    def wait(self, *numbers: int) -> list[int]:
        """Exit codes of hosts, once they have ended."""
        return [self.processes[number].wait(LIMIT_S) for number in numbers or self.processes]

    def metrics(self, run: str = "run") -> dict[str, Any]:
        """Metrics of the finished run."""
        return dict(json.loads((self.folder / run / "metrics.json").read_text()))

    def close(self) -> None:
        """End everything."""
        for host in self.hosts.values():
            host.kill()
        for process in self.processes.values():
            process.wait()

    def _until(self, happened: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not happened():
            ended = [number for number, process in self.processes.items() if process.poll() not in (None, 0, -9)]
            assert time.monotonic() < deadline_s and not ended, {n: self.said(n)[-3000:] for n in self.processes}
            time.sleep(0.02)


@contextlib.contextmanager
def training_hosts(
    folder: Path, size: int, *, cores: Sequence[int] = (), round_trip_s: float = 0.0
) -> Iterator[TrainingHosts]:
    """Hosts for the duration of a ``with`` block; ``cores``: those that their processes are pinned to in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    with network(size, round_trip_s=round_trip_s) as hosts:
        run = TrainingHosts(hosts, folder, cores=cores)
        try:
            yield run
        finally:
            run.close()


def lose_by_kill(hosts: TrainingHosts, number: int, **started: Any) -> float:
    """End all processes of a host, and start it again when the others have noticed; seconds to the next checkpoint."""
    others = [other for other in hosts.hosts if other != number]
    began_s = time.monotonic()
    hosts.hosts[number].kill()
    hosts.wait_until_said("beginning again", *others)
    hosts.start(number, **started)
    hosts.wait_for_checkpoint()
    return time.monotonic() - began_s


def lose_by_cable(hosts: TrainingHosts, number: int, **started: Any) -> float:
    """Pull a host's cable, and put it back when all have noticed; nobody starts anything. Seconds as above."""
    began_s = time.monotonic()
    hosts.hosts[number].cut()
    hosts.wait_until_said("beginning again", *hosts.hosts)
    hosts.hosts[number].mend()
    hosts.wait_for_checkpoint()
    return time.monotonic() - began_s
