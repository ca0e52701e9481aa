"""Progress of long commands where there is no terminal: a line soon, then rarely, on standard error alone."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from support.own_log import prepared
from typer.testing import CliRunner

import recsys.progress
from recsys.cli import app
from recsys.evaluation.evaluate import Metrics
from recsys.progress import by_name, progress, training_progress
from recsys.training.reports import TrainingProgress

COUNTED = r"[\d,]+ of [\d,]+, [\d,.e+]+/s, [\d.]+ (s|min|h) left"


@pytest.fixture
def console() -> Console:
    """A console that is no terminal."""
    return Console(file=io.StringIO(), width=160)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every millisecond instead of one after seconds."""
    monkeypatch.setattr(recsys.progress, "_FIRST_S", 0.001)
    monkeypatch.setattr(recsys.progress, "_RAREST_S", 0.001)


def told(console: Console) -> list[str]:
    """The lines printed so far."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def until(console: Console, pattern: str) -> None:
    """Wait until a line like it was printed."""
    deadline_s = time.monotonic() + 60
    while not any(re.search(pattern, line) for line in told(console)):
        assert time.monotonic() < deadline_s, told(console)
        time.sleep(0.001)


@pytest.mark.usefixtures("soon")
def test_a_line_says_how_much_of_how_much_how_fast_and_how_long_still(console: Console) -> None:
    with progress(console, "reading") as work:
        until(console, r"^reading: \d+ s so far$")
        work.stage("scoring, samples", total=2_000)
        for done in (1_000, 1_500):
            work.count(done, note="loss .5")
            time.sleep(0.002)
        until(console, r"^scoring, samples: 1,500 of 2,000, .*, \d+ s left, loss \.5$")
        report = by_name(work)
        report("users", 10)
        report("events", 70)
        until(console, r"^events: 70$")
    ended = told(console)
    time.sleep(0.05)
    assert told(console) == ended


def test_lines_become_rare(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recsys.progress, "_FIRST_S", 0.02)
    with progress(console, "sorting"):
        time.sleep(1.0)
    # At .02, .06, .14, .30, .62 and 1.26 s, or later
    assert 1 <= len(told(console)) <= 5
    assert recsys.progress._longer(40.0) == 60.0


def test_work_that_ends_at_once_prints_nothing(console: Console) -> None:
    with progress(console, "reading"):
        pass
    assert told(console) == []


@pytest.mark.usefixtures("soon")
def test_training_tells_the_loss_and_metrics_between(console: Console) -> None:
    measured = Metrics(auc=0.75, gauc=None, log_loss=0.5, samples=4, positives=2)
    with training_progress(console) as report:
        until(console, "^before the first step: ")
        for step in range(1, 11):
            epoch = (step - 1) // 10
            report(TrainingProgress(step, 20, epoch, 1234.6, 0.5, epochs=2, eta_s=3.0 * (20 - step)))
            time.sleep(0.001)
            if step in (5, 10):
                report(TrainingProgress(step, 20, step // 10, 1234.6, 0.5, measured, epochs=2))
        until(console, r"^training, steps: 10 of 20, .*/s, \d+ s left, loss 0\.5000  1,235 samples/s$")
        report(TrainingProgress(20, 20, 1, 1234.6, 0.5, epochs=2))
        until(console, "^measuring: ")
    assert [line.partition(":")[0] for line in told(console) if "validation AUC 0.7500" in line] == [
        "step 5",
        "epoch 1",
    ]


def test_a_command_in_a_pipe_tells_how_far_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys.cli", "train", "din", f"data.dataset={prepared('bare')}"]
    command += ["train.epochs=100000", "--run-dir", str(tmp_path / "run"), "--json"]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert training.stderr is not None
    try:
        lines = []
        for line in training.stderr:
            lines.append(line)
            if re.match(rf"training, steps: {COUNTED}, loss ", line):
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        training.kill()
        told, _ = training.communicate()
    assert told == ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shop's log."""
    folder = tmp_path_factory.mktemp("progress") / "run"
    result = CliRunner().invoke(app, ["train", "sdim", f"data.dataset={prepared()}", "--run-dir", str(folder)])
    if result.exception is not None:
        raise result.exception
    return folder


@pytest.mark.usefixtures("soon")
def test_every_long_command_tells_it_beside_its_json(run: Path, tmp_path: Path, redis_url: str) -> None:
    log = prepared()
    features = ("--features", str(log.parent / "features.json"))
    of_shop = ("--users", str(log.parent / "users.csv"), "--items", str(log.parent / "items.csv"))
    bundle, grown, swept = (str(tmp_path / name) for name in ("bundle", "grown", "swept"))
    train = (f"data.dataset={log}", "train.epochs=2", "train.batch_size=256")
    for arguments, says in (
        (("prepare", str(log.parent / "log.csv"), *features, *of_shop, "--out", str(tmp_path / "shop")), "sorting"),
        (("train", "din", *train, "--run-dir", str(tmp_path / "run")), "training, steps"),
        (("evaluate", str(run), "--bootstrap", "50"), "scoring, samples"),
        (("compare", str(run), str(run), "--bootstrap", "50"), "resampling"),
        (("rows", "report", str(run)), "counting ids"),
        (("rows", "grow", str(run), "--log", str(log), "--out", grown), "counting ids"),
        (
            ("compress", "din", *train, "--maps", "hash", "--budgets", "0.5", "--seeds", "1", "--out", swept),
            "run 1 of 2",
        ),
        (("export", str(run), "--out", bundle), "tracing"),
        (("materialize", str(log), "--redis-url", redis_url), "events"),
        (("precompute-states", bundle, "--redis-url", redis_url), " users in "),
        (("parity", str(log), "--samples", "200"), "samples"),
        (("ingest", str(log.parent / "log.csv"), *features, "--redis-url", redis_url, "--ignore-unknown"), " events, "),
    ):
        ended = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        json.loads(ended.stdout)
        assert any(says in line for line in ended.stderr.splitlines()), f"{arguments[0]}: {ended.stderr}"
