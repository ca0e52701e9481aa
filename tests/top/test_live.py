"""`recsys top` on a real server: its figures, its screens, and a server that goes away and comes back."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process

from recsys.client import Client
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.top.page import read_page
from recsys.top.screen import screen
from recsys.top.watch import View, read_once, watch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("top")
    write_tiny_bundle(made / "bundle")
    return made


def settings(folder: Path, redis_url: str) -> dict[str, str]:
    return {
        "RECSYS_BUNDLE": str(folder / "bundle"),
        "REDIS_URL": redis_url,
        "RECSYS_METRICS_PORT": "0",
        "RECSYS_STORE_TIMEOUT_MS": "5000",
    }


@pytest.fixture(scope="module")
def server(folder: Path, redis_server: EmbeddedRedis) -> Iterator[ServerProcess]:
    with server_process(folder, **settings(folder, redis_server.url)) as running:
        yield running


@contextmanager
def calls(address: str) -> Iterator[None]:
    """Calls to a server for the duration of a ``with`` block, in a thread."""
    stop = threading.Event()

    def work() -> None:
        with Client(address, timeout_s=20) as client:
            while not stop.is_set():
                client.rank(user=1, candidates=[1, 2, 3])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def top(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, without a terminal."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_")}
    command = [sys.executable, "-m", "recsys.cli", "top", *arguments]
    return subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_json_has_the_calls_that_were_made_meanwhile(server: ServerProcess) -> None:
    with calls(server.address):
        done = top("--json", "--metrics-url", server.facts["metrics"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (rank,) = [row for row in found["methods"] if row["method"] == "Rank"]
    assert rank["calls_per_s"] > 0 and 0 < rank["p50_s"] <= rank["p99_s"] < 10
    assert (found["workers"], found["workers_serving"]) == (1, 1) and found["candidates_per_s"] > 0
    (release,) = found["releases"]
    assert release["model"] == "tiny" and release["role"] == "live" and 0 < release["mean_score"] < 1


def test_without_a_terminal_it_prints_once_and_the_ready_file_says_where(server: ServerProcess, folder: Path) -> None:
    with calls(server.address):
        done = top(RECSYS_READY_FILE=str(folder / "ready.json"))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout, "no colours where there is no terminal"
    for word in ("calls/s", "Rank", "p99", "1 of 1 serve", "round trips/s", "live"):
        assert word in done.stdout, done.stdout


@pytest.mark.parametrize("width", [30, 50, 80, 140])
def test_no_line_is_wider_than_the_screen(server: ServerProcess, width: int) -> None:
    url = server.facts["metrics"]
    with calls(server.address):
        figures = read_once(lambda: read_page(url), over_s=0.2)
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(screen(figures, width=width, source=url))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    assert "Rank" in text and "p99" in text and "tiny" in text


def test_a_server_that_goes_away_is_shown_as_away_and_its_return_is_seen(
    folder: Path, tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    from recsys.top.page import url_of_ready_file

    views = watch(lambda: read_page(url_of_ready_file(tmp_path / "ready.json")), every_s=0.05)

    def until(what: str, limit_s: float = 60.0) -> View:
        deadline_s = time.monotonic() + limit_s
        for view in views:
            if bool(view.away) == (what == "away"):
                return view
            assert time.monotonic() < deadline_s, f"never {what}"
        raise AssertionError

    assert "does not serve" in until("away").away
    for _ in range(2):
        with server_process(tmp_path, **settings(folder, redis_server.url)) as running:
            with Client(running.address, timeout_s=20) as client:
                client.rank(user=1, candidates=[1])
            figures = until("there").figures
            assert figures is not None and figures.workers_serving == 1 and figures.calls_per_s >= 0
            running.process.terminate()
            running.process.wait(30)
            away = until("away")
            assert away.figures is not None, "the last ones stay"


def test_on_a_terminal_it_refreshes_until_it_is_ended(server: ServerProcess) -> None:
    terminal, line = pty.openpty()
    command = [sys.executable, "-m", "recsys.cli", "top", "--metrics-url", server.facts["metrics"], "--every-s", "0.2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "30"}
    process = subprocess.Popen(command, stdin=line, stdout=line, stderr=subprocess.PIPE, env=environment)
    os.close(line)
    text, deadline_s = "", time.monotonic() + 60
    try:
        while text.count("1 of 1 serve") < 3:
            assert time.monotonic() < deadline_s, text
            text += os.read(terminal, 65_536).decode(errors="replace")
        process.send_signal(2)
        drain = threading.Thread(target=lambda: _read_all(terminal), daemon=True)
        drain.start()
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
        os.close(terminal)
    assert re.search(r"\x1b\[\?1049h", text), "a screen of its own, which leaves the terminal as it was"


def _read_all(terminal: int) -> None:
    try:
        while os.read(terminal, 65_536):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "where is the server"),
        (("--metrics-url", "127.0.0.1:9"), 2, "expected http://HOST:PORT/metrics"),
        (("--metrics-url", "http://127.0.0.1:9/metrics"), 6, "Connection refused"),
        (("--ready-file", "/nowhere/ready.json"), 6, "does not serve"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = top(*arguments)
    assert done.returncode == code and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
