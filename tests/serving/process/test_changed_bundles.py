"""Files of a served bundle that are cut short, written over or replaced, on real servers under load: no process dies,
no answer is a wrong one, and errors name the release and the file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.tiny_bundle import D, reference_scores, write_tiny_bundle
from support.tiny_retrieval import TEXT_FEATURES, best_items, tiny_text_tables, write_tiny_retrieval
from support.tiny_server import ServerProcess, server_process, start_server_process
from support.tiny_workers import pids, until, workers

from recsys.features.hashing import string_key
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest, RankResponse, RetrieveRequest
from recsys.proto.ranker_pb2_grpc import RankerStub
from recsys.serving.inference.mapped_pages import can_guard

pytestmark = pytest.mark.skipif(not can_guard(), reason="the library was not compiled")

ROWS = 1 << 18
ITEMS = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)
AGE = 0.5


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle", items=ITEMS)
    return tmp_path / "bundle"


@dataclass
class Seen:
    """Answers and errors that callers got."""

    right: int = 0
    wrong: list[object] = field(default_factory=list)
    errors: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)


@contextmanager
def calling(address: str, count: int = 4) -> Iterator[Seen]:
    """Callers with a connection each that ask for random items, and compare each answer with the definition."""
    seen, stop = Seen(), threading.Event()

    def call(number: int) -> None:
        random = np.random.default_rng(number)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            stub = RankerStub(channel)
            while not stop.is_set():
                candidates = random.integers(0, ROWS, size=20).tolist()
                request = RankRequest(user=Id(integer=1), candidates=Ids(integers=candidates))
                request.features["age"].numbers.append(AGE)
                try:
                    answer: RankResponse = stub.Rank(request, timeout=30)
                except grpc.RpcError as error:
                    seen.errors.append((error.code(), error.details()))
                    time.sleep(0.01)
                    continue
                expected = reference_scores(events=[], candidates=candidates, age=AGE, items=ITEMS)
                if np.allclose(answer.scores, expected, rtol=0, atol=1e-5):
                    seen.right += 1
                else:
                    seen.wrong.append((answer.scores, expected))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def drop_pages(file: Path) -> None:
    """Have the system forget what it has read of a file."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def overwrite(file: Path, data: bytes) -> None:
    """Write over a file piece by piece, as `cp` and `rsync --inplace` do."""
    with file.open("r+b", buffering=0) as opened:
        for start in range(0, len(data), 1 << 20):
            opened.write(data[start : start + (1 << 20)])


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut to nothing": lambda file: os.truncate(file, 0),
    "cut to half": lambda file: os.truncate(file, ITEMS.nbytes // 2 + 100),
    "written over by NaN": lambda file: overwrite(file, b"\xff" * ITEMS.nbytes),
    "written over by others": lambda file: overwrite(file, np.ascontiguousarray(ITEMS[::-1]).tobytes()),
}


def health(server: ServerProcess, service: str) -> str:
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


@pytest.mark.parametrize(
    "change",
    [
        "cut to half",
        "written over by NaN",
        pytest.param("cut to nothing", marks=pytest.mark.prove),
        pytest.param("written over by others", marks=pytest.mark.prove),
    ],
)
def test_no_worker_dies_and_no_answer_is_wrong_when_a_served_table_is_changed(
    change: str, bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    table, other_name = bundle / "tables" / "items.bin", tmp_path / "other name"
    with workers(tmp_path, bundle, redis_url) as server, calling(server.address) as seen:
        serving = pids(tmp_path)
        until(lambda: seen.right > 30)
        os.link(table, other_name)
        until(lambda right=seen.right: seen.right > right + 30)
        (tmp_path / "other file").write_bytes(b"\xff" * ITEMS.nbytes)
        (tmp_path / "other file").replace(table)
        os.truncate(table, 0)  # of the file that took its name
        until(lambda right=seen.right: seen.right > right + 30)
        assert seen.errors == []
        drop_pages(other_name)
        CHANGES[change](other_name)
        until(lambda: len(seen.errors) > 50)
        assert pids(tmp_path) == serving and server.process.poll() is None
    assert seen.wrong == []
    for code, message in seen.errors:
        assert code is grpc.StatusCode.INTERNAL
        assert "release 'tiny-" in message and f"{bundle}: tables/items.bin was written to" in message


def said(process: subprocess.Popen[str], words: str) -> str:
    """The line of a server's log that has some words; waits for it, and for no longer than 60 s."""
    assert process.stderr is not None
    timer = threading.Timer(60.0, process.kill)
    timer.start()
    try:
        return next((line for line in process.stderr if words in line), "")
    finally:
        timer.cancel()


def test_a_worker_that_is_started_again_refuses_a_table_that_was_written_over(
    bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    table = bundle / "tables" / "items.bin"
    with workers(tmp_path, bundle, redis_url) as server, calling(server.address) as seen:
        until(lambda: seen.right > 30)
        first, second = pids(tmp_path)
        data = table.read_bytes()
        overwrite(table, data[::-1])  # of the same size
        os.kill(first, signal.SIGKILL)
        until(lambda: pids(tmp_path) == [second])
        line = said(server.process, "could not start (2 times in a row)")
        assert f"{bundle}: tables/items.bin was altered: its SHA-256 is not the manifest's" in line
        assert pids(tmp_path) == [second] and seen.wrong == []
        overwrite(table, data)  # whole again: it serves, and the other, which read what it read, does not
        until(lambda: len(pids(tmp_path)) == 2)
        os.kill(second, signal.SIGKILL)
        until(lambda right=seen.right: seen.right > right + 50)
    assert seen.wrong == []


def test_a_server_of_a_damaged_bundle_says_so_by_its_health_and_log(
    bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    settings = {"RECSYS_BUNDLE": str(bundle), "REDIS_URL": redis_url, "RECSYS_HANG_TIMEOUT_S": "2.5"}
    with server_process(tmp_path, **settings) as server:
        assert health(server, "") == health(server, "recsys.v1.Ranker") == "SERVING"
        os.truncate(bundle / "tables" / "items.bin", 1000)
        until(lambda: health(server, "") == "NOT_SERVING")
        assert (
            health(server, "recsys.v1.Ranker") == "NOT_SERVING"
            and health(server, "recsys.v1.FeatureStore") == "SERVING"
        )
        with calling(server.address, 2) as seen:
            until(lambda: len(seen.errors) > 50)
        server.process.terminate()
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert log.count("its size went from 4,194,304 to 1,000 bytes") <= 4
        assert "nothing that is served can answer, and health says so: release 'tiny-" in log
        assert "a call failed: release 'tiny-" in log and "Traceback" not in log and "incident" not in log


@pytest.mark.parametrize("name", ["item_id.rows.bin", "item_id.keys.bin", "item_id.names.bin"])
def test_a_retrieval_bundles_files_are_guarded_names_among_them(name: str, tmp_path: Path, redis_url: str) -> None:
    tables = tiny_text_tables(3_000)
    write_tiny_retrieval(tmp_path / "finder", tables, features=TEXT_FEATURES)
    keys, _ = best_items(tables, 3, [], 10)
    assert tables.item_names_M is not None
    named = dict(zip(tables.item_keys.tolist(), tables.item_names_M, strict=True))
    expected = [named[key] for key in keys.tolist()]
    assert string_key(expected[0]) == keys[0]
    settings = {"RECSYS_BUNDLE": str(tmp_path / "finder"), "REDIS_URL": redis_url}
    with server_process(tmp_path, **settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = RankerStub(channel)
        request = RetrieveRequest(user=Id(integer=3), top_k=10)
        assert list(stub.Retrieve(request, timeout=30).items.texts) == expected
        file = tmp_path / "finder" / "tables" / name
        drop_pages(file)
        os.truncate(file, file.stat().st_size // 3)
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as raised:
                stub.Retrieve(request, timeout=30)
            assert raised.value.code() is grpc.StatusCode.INTERNAL
            assert f"tables/{name}" in raised.value.details() and "release 'finder-" in raised.value.details()
        assert server.process.poll() is None


def opened(pid: int) -> list[str]:
    """Files that a process has open."""
    with contextlib.suppress(OSError):
        return [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
    return []


def mapped(pid: int) -> str:
    """Files that a process has mapped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/maps").read_text()
    return ""


@pytest.mark.parametrize("moment", ["opened", "mapped"])
def test_a_table_that_is_cut_short_while_a_server_starts_is_named_by_it(
    moment: str, bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    table = bundle / "tables" / "items.bin"
    with start_server_process(tmp_path, RECSYS_BUNDLE=str(bundle), REDIS_URL=redis_url) as process:
        try:
            while str(table) not in (opened(process.pid) if moment == "opened" else mapped(process.pid)):
                assert process.poll() is None
            os.truncate(table, 1000)
            ready_file = tmp_path / "ready.json"
            until(lambda: process.poll() is not None or ready_file.exists())
            if process.poll() is None:  # it was ready first: it notices by itself, and takes no more calls
                server = ServerProcess(process, json.loads(ready_file.read_text()))
                until(lambda: process.poll() is not None or health(server, "") == "NOT_SERVING")
            process.terminate()
            log = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode >= 0 and "tables/items.bin" in log
