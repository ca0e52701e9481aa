"""Nothing is left under HOME by our programs. ONNX Runtime's telemetry would, from when it is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import recsys
from support.tiny_bundle import write_tiny_bundle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def written(home: Path) -> list[str]:
    """Files and folders below a home."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


CI_VARIABLES = (
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "TRAVIS", "CIRCLECI", "APPVEYOR", "JENKINS_URL", "BUILD_ID",
    "BUILD_BUILDID", "CODEBUILD_BUILD_ID", "TEAMCITY_VERSION", "BUILDKITE",
)  # fmt: skip
"""ONNX Runtime itself sends nothing where one of these says that it is tested by a machine."""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where nothing is, for processes that this one starts; their environment says nothing of telemetry."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [n for n in os.environ if n.startswith("XDG_") or n in ("ORT_DISABLE_TELEMETRY", *CI_VARIABLES)]:
        monkeypatch.delenv(name)
    return home


def test_a_server_with_workers_and_a_call_leave_nothing_under_home(fresh: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "recsys.cli", "serve", "bundle", "--port", "0", "--workers", "2"]
    command += ["--redis-dir", "redis", "--ready-file", str(ready)]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 60
        while not ready.exists():
            assert server.poll() is None and time.monotonic() < deadline_s, server.communicate()
            time.sleep(0.01)
        address = ready.read_text().split('"address": "')[1].split('"')[0]
        ranked = recsys("rank", "--user", "1", "--items", "7,8,9", "--address", address, cwd=tmp_path)
        assert ranked.returncode == 0, ranked.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert written(fresh) == []


@pytest.mark.parametrize("value", [None, "0", ""])
def test_a_program_that_uses_our_modules_leaves_nothing_whatever_the_environment_says(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    code = "import recsys.serving.inference.graphs, sys; assert 'onnxruntime' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert written(fresh) == []


def test_a_benchmark_that_loads_it_by_itself_leaves_nothing(fresh: Path) -> None:
    subprocess.run([sys.executable, "-c", "import harness, onnxruntime"], check=True, cwd=BENCHMARKS)
    assert written(fresh) == []


def test_without_our_package_it_writes_there(fresh: Path, tmp_path: Path) -> None:
    """Or the tests above would pass whatever we do."""
    subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True, cwd=tmp_path)
    assert written(fresh)
