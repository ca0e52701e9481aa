"""SIGHUP during the start-up of a server that follows releases is remembered, and acted on when that is over."""

from __future__ import annotations

import signal
from pathlib import Path

from support.release_store import TinyStore
from support.tiny_server import start_server_process
from support.tiny_workers import until


def test_sighup_during_the_start_up_is_acted_on_when_that_is_over(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    first, second = store.push(1.0), store.push(1.1)
    store.promote(first)
    variables = {"RECSYS_RELEASES": str(store.path), "REDIS_URL": redis_url, "RECSYS_WORKERS": "1"}
    process = start_server_process(tmp_path, **variables, RECSYS_RELEASE_POLL_S="0")
    try:
        assert process.stderr is not None and "unsecured" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)  # nothing but settings is read yet
        until(lambda: has_child(process.pid), limit_s=60.0)  # a worker: what is to be served is read
        store.promote(second)
        process.send_signal(signal.SIGHUP)
        said = ""
        while "SIGHUP: reading served.json" not in said:
            said += (line := process.stderr.readline())
            assert line, f"it ended: {said}"
        assert "recsys: serving tiny" in said, "it reads when it is up"
        until(lambda: (store.path / "status").exists() and store.status().models["tiny"].live == second, limit_s=60.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def has_child(pid: int) -> bool:
    """Tell if a process has started another one."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(file.read_text().rpartition(")")[2].split()[1]) == pid:
                return True
        except OSError:
            continue  # it has ended
    return False
