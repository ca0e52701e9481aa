"""The command line: help, exit codes, and what it says to bad input.

Most commands run in this process, as ``main`` runs them: a process for each costs seconds of imports. A few are
started as a user starts them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from support.command_line import recsys

from recsys.cli import app, main

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """:func:`recsys` without a new process, in ``tmp_path``."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
                for name in [n for n in os.environ if n.startswith(("RECSYS_", "REDIS_URL"))]:
                    patch.delenv(name)
                for name, value in {"COLUMNS": "200", **environment}.items():
                    patch.setenv(name, value)
                patch.chdir(tmp_path)
                patch.setattr(sys, "argv", ["recsys", *arguments])
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, *capfd.readouterr())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, run: Run) -> None:
    told = run(command, "--help")
    assert told.returncode == 0
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        assert parameter.opts[0] in told.stdout or parameter.metavar in told.stdout
        assert parameter.name == "help" or getattr(parameter, "help", None), f"{command} {parameter.name}"


def test_a_command_in_a_process_of_its_own_does_what_it_does_in_ours(run: Run, tmp_path: Path) -> None:
    for arguments in (("--version",), ("serve", "nowhere"), ("ingest", "-", "--features", "no.json")):
        ours, theirs = run(*arguments), recsys(*arguments, cwd=tmp_path)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_the_version_is_told(tmp_path: Path) -> None:
    assert recsys("--version", cwd=tmp_path).stdout.startswith("recsys ")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("train", "din_movielens"), 2, "unknown recipe 'din_movielens': did you mean 'din_movielens_1m'?"),
        (("train", "din_synthetic", "train.epoch=1"), 2, "did you mean 'train.epochs'?"),
        (("train", "din_synthetic", "train.epochs"), 2, "expected path=value"),
        (("train", "din_synthetic", "train.epochs=many"), 2, "train.epochs is 'many'; expected int"),
        (("train", "din_synthetic", "train.epochs=0"), 2, "train.epochs is 0; allowed: 1 or more"),
        (("train", "din_synthetic", "model.head_act=dise"), 2, "did you mean 'dice'?"),
        (("trian", "din_synthetic"), 2, "trian"),
        (("evaluate", "nowhere"), 2, "nowhere/config.json is missing; `recsys train` writes a run"),
        (("export", "nowhere", "--out", "b"), 2, "`recsys train` writes a run"),
        (("serve", "nowhere"), 3, "no such folder; `recsys export` writes a bundle"),
        (("serve", "nowhere", "--redis-url", "http://x"), 2, "redis://"),
        (("materialize", "movielens"), 2, "did you mean 'movielens_1m'?"),
        (("materialize", "movielens_1m", "--data", "nowhere"), 2, "nowhere"),
        (("materialize", "synthetic", "--redis-url", "redis://127.0.0.1:1/0"), 4, "127.0.0.1:1"),
        (
            ("materialize", "synthetic", "--redis-url", "redis://localhost:abc"),
            2,
            "allowed: redis://[user:password@]host",
        ),
        (("train", "din_synthetic", "--run-dir", "/proc/nowhere/run"), 2, "/proc/nowhere"),
        (("materialize", "synthetic", "--work-dir", "/proc/nowhere"), 2, "/proc/nowhere"),
        (
            ("materialize", "synthetic", "--features", "/proc"),
            2,
            "/proc: expected a bundle",
        ),
        (("ingest", "-", "--features", "no.json"), 2, "features 'no.json': no such file or folder"),
        (("ingest", "--features", "synthetic"), 2, "give one kind of source"),
        (("ingest", "x.csv", "--kafka", "t", "--features", "synthetic"), 2, "give one kind of source"),
        (("ingest", "--kafka", "t", "--features", "synthetic"), 2, "--kafka needs --brokers host:port"),
        (("ingest", "x.csv", "--features", "synthetic"), 2, "x.csv: no such file or folder"),
        (("ingest", "x*.csv", "--features", "synthetic"), 2, "x*.csv: no such file, and as a pattern it matches none"),
        (("ingest", ".", "--features", "synthetic"), 2, "the folder holds no such file; allowed: files, folders"),
        (("ingest", "/proc/meminfo", "--features", "synthetic"), 2, "unknown format; allowed endings: .parquet, .csv"),
        (("ingest", "-", "-", "--follow", "--features", "synthetic"), 2, "--follow waits at the end of one"),
        (
            ("ingest", "--kafka", "t", "--brokers", "x", "--kafka-option", "y", "--features", "synthetic"),
            2,
            "name=value",
        ),
        (("serve",), 2, "RECSYS_BUNDLE"),
        (
            ("rank", "--user", "1", "--items", "1", "--address", "127.0.0.1:1", "--timeout", "3"),
            6,
            "error: no server answers at 127.0.0.1:1: start one with `recsys serve`, or see --address",
        ),
        (("recommend", "--user", "1", "--address", "127.0.0.1:1", "--timeout", "3"), 6, "error: no server answers at"),
        (("retrieve", "--user", "1", "--address", "127.0.0.1:1", "--timeout", "3"), 6, "error: no server answers at"),
        (("train", "dcn", "data.dataset=./nope"), 2, "error: ./nope: no such folder"),
    ],
)
def test_bad_input_is_answered_in_one_line_with_an_exit_code(
    arguments: tuple[str, ...], code: int, says: str, run: Run
) -> None:
    told = run(*arguments)
    assert told.returncode == code, told.stderr
    assert says in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr


def test_a_recipe_is_shown_with_its_overrides(run: Run) -> None:
    told = run("train", "din_synthetic", "train.epochs=7", "tables.dims.movie_id=24", "--show")
    shown = json.loads(told.stdout)
    assert shown["train"]["epochs"] == 7
    assert shown["tables"]["dims"] == {"movie_id": 24}


def test_recipes_are_listed_for_people_and_for_scripts(run: Run) -> None:
    assert "din_movielens_1m" in run("recipes").stdout
    assert "din_synthetic" in json.loads(run("recipes", "--json").stdout)


def test_settings_in_force_are_printed_without_passwords(run: Run) -> None:
    url = "redis://user:sekret@127.0.0.1:1/0"
    told = run("serve", "--settings", RECSYS_MAX_CANDIDATES="123", RECSYS_BUNDLE="b", REDIS_URL=url)
    lines = dict(line.split("=", 1) for line in told.stdout.splitlines())
    assert (lines["RECSYS_MAX_CANDIDATES"], lines["RECSYS_BUNDLE"]) == ("123", "b")
    assert "127.0.0.1:1/0" in lines["REDIS_URL"] and "sekret" not in told.stdout


def test_a_command_that_needs_the_training_packages_says_so_without_them(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    told = recsys("train", "din_synthetic", "--show", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert told.returncode == 2
    assert "torch is not installed: this command needs the training packages" in told.stderr


def test_a_data_folder_that_is_not_writable_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = run("materialize", "synthetic", "--redis-dir", "file/redis")
    assert told.returncode == 2
    assert str(tmp_path / "file" / "redis") in told.stderr.replace("\n", "")


def test_materializing_twice_changes_nothing(tmp_path: Path) -> None:
    first = json.loads(recsys("materialize", "synthetic", "--redis-dir", "redis", "--json", cwd=tmp_path).stdout)
    again = json.loads(recsys("materialize", "synthetic", "--redis-dir", "redis", "--json", cwd=tmp_path).stdout)
    assert first["events"] > 100_000 and first["kept"] == 0
    measured = {"elapsed_s", "events_per_s"}
    assert {n: v for n, v in again.items() if n not in measured} == {
        n: v for n, v in first.items() if n not in measured
    }


def test_the_package_is_the_command_where_it_is_not_installed(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "recsys", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert told.stdout.startswith("recsys ")


def test_serving_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, recsys.serving.process.server, recsys.client, recsys.cli; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert told.stdout.strip() == "False"


def test_the_command_line_starts_without_what_only_some_commands_need(tmp_path: Path) -> None:
    code = "import sys, recsys.cli; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = {"torch", "grpc", "google.protobuf", "redis", "onnxruntime", "pyarrow", "duckdb", "scipy", "matplotlib"}
    assert heavy & set(told.stdout.split()) == set()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    from support.tiny_bundle import write_tiny_bundle

    write_tiny_bundle(tmp_path / "bundle")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = recsys("serve", "bundle", "--port", port, "--redis-dir", "redis", cwd=tmp_path)
    assert told.returncode == 2
    assert f"127.0.0.1:{port}" in told.stderr
