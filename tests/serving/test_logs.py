"""Logs of a real server: every line one JSON object, from start to end, of every process."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.tiny_workers import pids, until

from recsys.client import Client
from recsys.serving import logs
from recsys.serving.current_call import CURRENT, CurrentCall
from recsys.serving.logs import JsonFormatter, TextFormatter


def lines_of(text: str) -> list[dict[str, Any]]:
    """Lines as objects; every one is one."""
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def served(folder: Path, settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server started by the command; its process, and its address."""
    ready = folder / "ready.json"
    environment = {**os.environ, **settings, "RECSYS_PORT": "0", "RECSYS_READY_FILE": str(ready)}
    command = [sys.executable, "-m", "recsys.cli", "serve"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: ready.exists() or process.poll() is not None, limit_s=60)
        assert process.poll() is None, process.communicate()[1]
        yield process, str(json.loads(ready.read_text())["address"])
    finally:
        process.kill()
        process.communicate()


def test_a_server_of_two_workers_logs_json_alone_from_start_to_end(tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # takes connections and never answers: a Redis that hangs
        settings = {
            "RECSYS_BUNDLE": str(tiny_bundle),
            "REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}",
            "RECSYS_WORKERS": "2",
            "RECSYS_LOG_FORMAT": "json",
            "RECSYS_NONSENSE": "1",
        }
        with served(tmp_path, settings) as (process, address):
            with Client(address, timeout_s=20) as client:
                assert list(client.rank(user=1, candidates=[1, 2]).degraded) == ["user", "items"]
            first = pids(tmp_path)
            os.kill(first[0], signal.SIGKILL)
            until(lambda: len(pids(tmp_path)) == 2 and first[0] not in pids(tmp_path))
            process.terminate()
            lines = lines_of(process.communicate(timeout=30)[1])
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line), line
    said = [line["message"] for line in lines if line["logger"] == "recsys"]
    assert any(text.startswith("serving tiny") for text in said) and said[-1] == "stopped"
    assert any("was killed by SIGKILL" in text for text in said), "of the supervisor"
    assert any("RECSYS_NONSENSE" in line["message"] for line in lines), "while the settings are read"
    degraded = next(line for line in lines if line["message"].startswith("degraded store"))
    assert degraded["worker"] in (1, 2) and degraded["method"] == "Rank" and len(degraded["request_id"]) == 16
    assert not any("worker" in line for line in lines if line["logger"] == "recsys")


def test_an_error_that_ends_the_command_is_such_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys.cli", "serve", str(tmp_path / "none"), "--log-format", "json"]
    environment = {**os.environ, "RECSYS_PORT": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    line = lines_of(done.stderr)[-1]
    assert (done.returncode, line["level"]) == (3, "ERROR") and "none" in line["message"]


def record_of(error: Exception) -> logging.LogRecord:
    """A record of an error that was caught."""
    try:
        raise error
    except Exception:
        return logging.LogRecord("recsys.serving", logging.ERROR, __file__, 1, "incident %s", ("7",), sys.exc_info())


def test_a_traceback_is_inside_the_object() -> None:
    text = JsonFormatter(worker=3).format(record_of(RuntimeError('two\nlines, "quoted"')))
    assert "\n" not in text
    line = json.loads(text)
    assert (line["worker"], line["message"], line["logger"]) == (3, "incident 7", "recsys.serving")
    assert line["exception"] == 'RuntimeError: two\nlines, "quoted"'
    assert line["traceback"].startswith("Traceback (most recent call last):\n") and "record_of" in line["traceback"]


@pytest.mark.parametrize("text", ["\ud800", "\x00\x1b[31m", "a\u2028b\r\nc", "\N{SNOWMAN}" * 10_000])
def test_no_text_breaks_a_line(text: str) -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%s", (text,), None)
    line = JsonFormatter().format(record)
    assert line.isascii() and len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text


def test_text_lines_name_the_request_that_they_are_about_before_a_traceback() -> None:
    formatter = TextFormatter("worker 1: %(levelname)s %(name)s: %(message)s")
    token = CURRENT.set(CurrentCall("Rank", request_id="mine"))
    try:
        first, *rest = formatter.format(record_of(RuntimeError("x"))).splitlines()
    finally:
        CURRENT.reset(token)
    assert first == "worker 1: ERROR recsys.serving: incident 7 [request mine]"
    assert rest[0] == "Traceback (most recent call last):"
    assert formatter.format(record_of(RuntimeError("x"))).splitlines()[0].endswith("incident 7")


def test_stacks_of_all_threads_are_a_field_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logs._config, "json", True)
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonFormatter().format(record))

    log, waiting, end = logging.getLogger("recsys.test_logs"), threading.Event(), threading.Event()

    def another() -> None:
        waiting.set()
        end.wait(60)

    thread = threading.Thread(target=another)
    thread.start()
    handler = Keep()
    log.addHandler(handler)
    try:
        assert waiting.wait(60)
        logs.log_stacks(log, "no request gets through, waiting for %s", "the lock")
    finally:
        log.removeHandler(handler)
        end.set()
        thread.join()
    (line,) = map(json.loads, lines)
    assert (line["level"], line["message"]) == ("ERROR", "no request gets through, waiting for the lock")
    assert "in another" in line["stacks"] and "in test_stacks_of_all_threads" in line["stacks"]
