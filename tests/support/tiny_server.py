"""Servers for tests: the type of the in-process starter, and a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from recsys.client import AsyncClient

Start = Callable[..., AbstractAsyncContextManager[AsyncClient]]
"""Starts a server in the caller's process, with these settings; gives a client of it."""

_PROGRAM = """
import os, sys
from recsys.serving.process.serve import serve
from recsys.serving.settings import read_settings
sys.exit(serve(read_settings(os.environ)))
"""


@dataclass(frozen=True)
class ServerProcess:
    """A running server; ``facts`` is what it wrote into its ready file."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    @property
    def address(self) -> str:
        """host:port."""
        return str(self.facts["address"])


def start_server_process(folder: Path, *, under: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """Start a server on a free port, and do not wait; its ready file is ``ready.json`` in the folder.

    ``under``: words before the command, such as those that run it in a network namespace.
    """
    variables = {"RECSYS_PORT": "0", "RECSYS_READY_FILE": str(folder / "ready.json"), **environment}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_") and k != "REDIS_URL"}
    return subprocess.Popen(
        [*under, sys.executable, "-c", _PROGRAM], env={**inherited, **variables}, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def server_process(folder: Path, *, under: Sequence[str] = (), **environment: str) -> Iterator[ServerProcess]:
    """Start a server with these environment variables on a free port; killed at the end if it still runs."""
    ready_file = folder / "ready.json"
    process = start_server_process(folder, under=under, **environment)
    try:
        deadline_s = time.monotonic() + 120
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                process.kill()
                raise AssertionError(f"the server did not start: {process.communicate()[1]}")
            time.sleep(0.01)
        yield ServerProcess(process, json.loads(ready_file.read_text()))
    finally:
        process.kill()
        if process.stderr is not None and not process.stderr.closed:  # closed: it has been read to its end
            process.communicate()


@contextmanager
def stalled(admin: redis.Redis) -> Iterator[Callable[[], None]]:
    """A Redis that takes connections and does not answer, until the block ends or the given function is called."""
    pid = int(admin.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)
