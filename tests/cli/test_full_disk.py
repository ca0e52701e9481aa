"""A disk that is full, or an output that nobody reads: one line, a documented exit code, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.full_disk import files_up_to
from support.own_log import prepared
from typer.testing import CliRunner

from recsys.cli import EXIT_CODES, app, exit_codes, main

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-m", "recsys.cli"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in ``tmp_path``, where no file may become larger than ``most`` bytes."""

    def run(*arguments: str, most: int = 1 << 30) -> subprocess.CompletedProcess[str]:
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["recsys", *arguments])
        try:
            with files_up_to(most), pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, *capfd.readouterr())

    return run


def errors(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of an error, which must be one."""
    assert "Traceback" not in ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith("error:")]


def left(folder: Path) -> list[str]:
    """Names in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shop's log."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = (f"data.dataset={prepared()}", "train.epochs=1", "rows.min_count=1")
    result = CliRunner().invoke(app, ["train", "din", *settings, "--run-dir", str(folder)])
    if result.exception is not None:
        raise result.exception
    return folder


@pytest.mark.parametrize("rejects", [(), ("--rejects", "rejects.jsonl")])
def test_prepare_leaves_neither_the_folder_nor_rejects(run: Run, tmp_path: Path, rejects: tuple[str, ...]) -> None:
    log, features = prepared("bare").parent / "log.csv", prepared("bare").parent / "features.json"
    ended = run("prepare", str(log), "--features", str(features), "--out", "made/shop", *rejects, most=8_000)
    assert ended.returncode == 9, ended.stderr
    assert len(errors(ended)) == 1 and "made/shop: File too large" in ended.stderr
    assert left(tmp_path) == ["made"] and left(tmp_path / "made") == []


def test_train_leaves_whole_files_and_can_be_resumed(run: Run, tmp_path: Path) -> None:
    train = ("train", "din", f"data.dataset={prepared('bare')}", "train.epochs=1", "--run-dir", "run")
    ended = run(*train, most=60_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1, ended.stderr
    assert "run/checkpoint.pt: File too large" in ended.stderr
    assert left(tmp_path / "run") == ["config.json", "data.json", "features.json", "row_maps.npz"]
    ended = run(*train, "--resume")
    assert ended.returncode == 0, ended.stderr


def test_export_leaves_an_older_bundle_as_it_was_and_nothing_beside_it(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text("an older bundle")
    ended = run("export", str(trained), "--out", "old", "--overwrite", most=5_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1, ended.stderr
    assert f"{tmp_path / 'old'}: File too large" in ended.stderr
    assert left(tmp_path) == ["old"] and (tmp_path / "old" / "manifest.json").read_text() == "an older bundle"


def test_rows_grow_leaves_no_folder(run: Run, trained: Path, tmp_path: Path) -> None:
    ended = run("rows", "grow", str(trained), "--log", str(prepared()), "--out", "grown", most=20_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1, ended.stderr
    assert "grown: File too large" in ended.stderr and left(tmp_path) == []


def test_compress_trains_later_what_found_no_room(run: Run, tmp_path: Path) -> None:
    compress = ("compress", "din", f"data.dataset={prepared('bare')}", "train.epochs=1", "--maps", "hash")
    ended = run(*compress, "--budgets", "0.5", "--seeds", "1", "--out", "swept", most=60_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1, ended.stderr
    assert "checkpoint.pt: File too large" in ended.stderr
    assert left(tmp_path / "swept") == ["runs"] and not list((tmp_path / "swept").rglob("result.json"))


def test_a_picture_that_finds_no_room_is_not_begun(run: Run, trained: Path, tmp_path: Path) -> None:
    ended = run("rows", "report", str(trained), "--png", "rows.png", most=2_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1 and left(tmp_path) == []


def test_dead_letters_that_find_no_room_end_ingest_with_whole_lines_only(
    run: Run, tmp_path: Path, redis_url: str
) -> None:
    refused = "".join(f'{{"user_id": {n}, "item_id": "x", "junk": 5}}\n' for n in range(60))
    (tmp_path / "bad.jsonl").write_text(refused)
    features = str(prepared("bare").parent / "features.json")
    ingest = ("ingest", "bad.jsonl", "--features", features, "--redis-url", redis_url)
    ended = run(*ingest, "--dead-letters", "dead.jsonl", most=4_000)
    assert ended.returncode == 9 and len(errors(ended)) == 1, ended.stderr
    assert "dead.jsonl: File too large" in ended.stderr and (tmp_path / "dead.jsonl").read_bytes() == b""
    ended = run(*ingest, "--dead-letters", "/dev/full")
    assert ended.returncode == 9 and "/dev/full: No space left on device" in ended.stderr
    assert run(*ingest, "--dead-letters", "dead.jsonl").returncode == 2  # no event fits
    assert len((tmp_path / "dead.jsonl").read_text().splitlines()) == 60


@pytest.mark.parametrize(
    "arguments", [("features", "show", "movielens_1m"), ("features", "show", "movielens_1m", "--json")]
)
def test_a_full_disk_under_standard_output_is_told_once(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 9
    assert len(ended.stderr.splitlines()) == 1 and "standard output" in errors(ended)[0]


@pytest.mark.parametrize(
    "arguments", [("features", "show", "movielens_1m"), ("features", "show", "movielens_1m", "--json")]
)
def test_a_reader_that_went_away_ends_a_command_in_silence(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_too_little_memory_is_one_line(run: Run, tmp_path: Path) -> None:
    ended = run("train", "din", f"data.dataset={prepared('bare')}", "tables.dim=10000000000", "--run-dir", "run")
    assert ended.returncode == 9, ended.stderr
    assert len(errors(ended)) == 1 and "not enough memory" in errors(ended)[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x93NUMPY\x01\x00v\x00", "expected UTF-8 text"),
        ('{"name": "café"}'.encode("latin-1"), "expected UTF-8 text"),
        ('{"name": "x"}'.encode("utf-16"), "expected UTF-8 text"),
        (b"[" * 100_000, "not a FeatureSet in JSON: maximum recursion depth"),
        (b"1" * 10_000, "not a FeatureSet in JSON: Exceeds the limit"),
        (b"", "not a FeatureSet in JSON"),
    ],
)
def test_a_features_file_that_is_none_is_named(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "features.json").write_bytes(content)
    for command in (("features", "check", "features.json"), ("prepare", "x.csv", "--features", "features.json")):
        ended = run(*command, *(("--out", "out") if command[0] == "prepare" else ()))
        assert ended.returncode == 2 and len(errors(ended)) == 1
        assert errors(ended)[0].startswith(f"error: features.json: {says}")


def test_an_existing_folder_is_refused_before_any_work(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ended = run("export", str(trained), "--out", "there")
    assert (
        ended.returncode == 2 and "there exists; choose another folder, or replace it with --overwrite" in ended.stderr
    )
    given = (str(prepared("bare").parent / "log.csv"), "--features", str(prepared("bare").parent / "features.json"))
    ended = run("prepare", *given, "--out", "there")
    assert ended.returncode == 2 and len(errors(ended)) == 1


def test_every_exit_code_is_in_the_help_and_in_the_runbook(run: Run) -> None:
    shown = " ".join(run("--help").stdout.replace("|", "").split())
    page = (Path(__file__).resolve().parents[2] / "docs" / "operate" / "runbook.md").read_text()
    for code, what in EXIT_CODES.items():
        assert f"{code} {what.replace('`', '')}" in shown, code
        assert f"| {code} | {what} |" in page, code
    assert set(exit_codes().values()) <= set(EXIT_CODES)
    assert app.registered_callback is not None
