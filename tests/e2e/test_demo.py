"""The main job, end to end: real training, real Redis, real gRPC, in the processes a user would have."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.paths import ROOT

from recsys.bundle import open_bundle
from recsys.client import Client

ANOTHERS = {
    "RECSYS_TLS_CERTIFICATE": "/none/tls.crt",
    "RECSYS_TLS_KEY": "/none/tls.key",
    "RECSYS_TLS_CLIENT_CA": "/none/ca.crt",
    "RECSYS_ACCESS_FILE": "/none/access.toml",
    "RECSYS_RELEASES": "/none",
    "RECSYS_HOST": "0.0.0.0",
    "RECSYS_WORKERS": "2",
    "RECSYS_TOKEN": "recsys_anothers",
    "REDIS_URL": "redis://none",
    "REDIS_URL_FILE": "/none/url",
}
"""Settings of another server of this machine: a demo has its own."""


@dataclass(frozen=True)
class Demo:
    """A finished demo on the synthetic log."""

    folder: Path
    figures: dict[str, object]
    printed: str


def _start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "recsys.cli",
            "demo",
            "--synthetic",
            "--out",
            str(folder / "demo"),
            "--json",
            *overrides,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environment, **ANOTHERS, "COLUMNS": "200"},
        start_new_session=True,  # a process group of its own, as a terminal gives it
    )


def _processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    process = _start(folder, "train.epochs=2")
    printed, progress = process.communicate(timeout=280)
    assert process.returncode == 0, progress
    assert _processes_of(folder) == []
    return Demo(folder / "demo", json.loads(printed), progress)


@pytest.fixture(scope="session")
def address(demo: Demo) -> Iterator[str]:
    """A server started by the first of the demo's own "try next" commands."""
    command = next(line for line in demo.printed.splitlines() if line.strip().startswith("recsys serve"))
    ready = demo.folder / "again.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "recsys.cli", *command.split()[1:], "--port", "0", "--ready-file", str(ready)]
    )
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield json.loads(ready.read_text())["address"]
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_the_demo_prints_a_ranking_latencies_and_what_to_try_next(demo: Demo) -> None:
    assert re.search(r"User \d+", demo.printed)
    assert "Top 10 of" in demo.printed
    assert re.search(r"Recommended from the id \d+ alone", demo.printed)
    assert demo.figures["retrieval_test"]["recall"] > 0.0  # type: ignore[index]
    assert "p50" in demo.printed and "p99" in demo.printed
    assert demo.printed.count("\n  recsys ") == 3
    assert demo.figures["calls"] == 200 and demo.figures["candidates_per_call"] == 200


def test_the_demo_says_that_its_data_is_synthetic(demo: Demo) -> None:
    assert demo.figures["synthetic"] is True
    assert "synthetic log" in demo.printed


def test_the_demo_learns_what_history_tells(demo: Demo) -> None:
    # Item popularity alone reaches 0.58 on this log, a user's static taste 0.68; the best possible is 0.88.
    assert demo.figures["test"]["auc"] > 0.78  # type: ignore[index]


def test_the_bundle_that_is_left_is_whole_and_certified(demo: Demo) -> None:
    certificate = open_bundle(demo.folder / "bundle").manifest.certificate
    assert certificate.candidates > 1000
    assert certificate.max_abs_logit_difference <= certificate.tolerance == 1e-4


def test_a_server_on_what_is_left_ranks_with_the_stored_history(address: str) -> None:
    with Client(address, timeout_s=10.0) as client:
        ranking = client.rank(user=1, candidates=[1, 260, 700], top_k=2)
        assert ranking.history_events == 20
        assert ranking.degraded == ()
        assert len(ranking.items) == 2
        assert ranking.scores[0] >= ranking.scores[1]


def test_the_same_server_recommends_from_a_users_id_alone(address: str) -> None:
    with Client(address, timeout_s=10.0) as client:
        found = client.recommend(user=1, top_k=5)
        assert len(found.items) == 5 and found.degraded == () and found.user_known
        assert not set(found.items) & set(client.get_history(user=1).items)


def test_an_appended_event_changes_the_next_ranking(address: str) -> None:
    with Client(address, timeout_s=10.0) as client:
        before = client.rank(user=2, candidates=list(range(1, 101)))
        now_ms = int(time.time() * 1000)
        appended = client.append_events(
            user=2, items=[5, 6], timestamps_ms=[now_ms - 1000, now_ms], attributes={"rating": [1, 1]}
        )
        after = client.rank(user=2, candidates=list(range(1, 101)))
        assert appended.added == 2
        assert (before.scores != after.scores).any()
        assert list(client.get_history(user=2, limit=2).items) == [5, 6]


def test_the_readme_example_runs(address: str) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    told = subprocess.run(
        [sys.executable, "-c", example.replace("127.0.0.1:50051", address)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("[")


CALLING = sorted(p.name for p in (ROOT / "examples").glob("*.py") if "recsys.client" in p.read_text())
"""Examples of calls; the pages of ``test_pages.py`` run the others."""


@pytest.mark.parametrize("example", CALLING)
def test_every_example_of_a_call_runs(example: str, address: str) -> None:
    told = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), address], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout


def test_the_rank_command_prints_a_table_and_json(address: str) -> None:
    command = [sys.executable, "-m", "recsys.cli", "rank", "--user", "1", "--items", "1,2,3", "--address", address]
    assert "score" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = subprocess.run([*command, "--json", "--top", "0"], capture_output=True, text=True, check=True).stdout
    assert [entry["item"] for entry in json.loads(told)["ranking"]] == [1, 2, 3]


@pytest.mark.parametrize(
    "heading", ["3/6", *(pytest.param(heading, marks=pytest.mark.prove) for heading in ("2/6", "5/6"))]
)
def test_ctrl_c_leaves_no_process_and_no_half_written_bundle(heading: str, tmp_path: Path) -> None:
    process = _start(tmp_path, "train.epochs=1", "data.recent=1", "train.batch_size=4096")
    assert process.stderr is not None
    for line in process.stderr:
        if heading in line:
            break
    time.sleep(0.5)  # into the step
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    # 130 for a shell either way. Python ends itself by the signal if that came within an exec(), as torch's exporter
    # uses, although the command caught it.
    assert process.returncode in (130, -signal.SIGINT)
    assert _processes_of(tmp_path) == []
    left = list((tmp_path / "demo").glob(".bundle.tmp-*"))
    assert left == []
    if (tmp_path / "demo" / "bundle").exists():
        open_bundle(tmp_path / "demo" / "bundle")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.prove),
        pytest.param(signal.SIGTERM, marks=pytest.mark.prove),
        signal.SIGKILL,
    ],
)
def test_ending_only_the_demo_ends_its_server_and_its_redis(number: int, tmp_path: Path) -> None:
    process = _start(tmp_path, "train.epochs=1", "data.recent=1", "train.batch_size=4096")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving"):
            break
    assert any(" serve " in line for line in _processes_of(tmp_path))
    process.send_signal(number)  # not to its group, as a terminal would
    process.communicate(timeout=60)
    for _ in range(100):
        if not _processes_of(tmp_path):
            break
        time.sleep(0.1)
    assert _processes_of(tmp_path) == []


def test_a_demo_that_finds_no_data_leaves_the_last_one_as_it_is(demo: Demo) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "demo", "--data", "nowhere", "--out", str(demo.folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=demo.folder.parent,
    )
    assert told.returncode == 2
    open_bundle(demo.folder / "bundle")


def test_a_folder_that_no_demo_made_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    process = _start(tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no demo made" in said
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"
