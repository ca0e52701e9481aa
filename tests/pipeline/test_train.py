"""Training that a launcher starts: one process, and two of torchrun; both end with the pipeline."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.paths import ROOT
from support.tiny_pipeline import first_day, nth_day, with_setting

from recsys.errors import ConfigError, RecsysError
from recsys.pipeline.state import read_state, state_file
from recsys.pipeline.train import train_run
from recsys.releases.served import read_served
from recsys.training.run.folder import CHECKPOINT, read_config

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_training_that_is_launched_is_the_training_of_the_pipeline_itself(tmp_path: Path) -> None:
    made = first_day() / "pipeline" / "outputs"
    config = read_config(next((made / "train").iterdir()) / "run")
    own = json.loads(next((made / "train").glob("*/run/metrics.json")).read_text())["test"]
    lines: list[str] = []
    facts = train_run(config, tmp_path, launcher=[sys.executable], say=lines.append)
    assert (facts["auc"], facts["log_loss"]) == (own["auc"], own["log_loss"])
    (tmp_path / "other").mkdir()
    with pytest.raises(RecsysError, match=r"training.launcher: .*false.* ended with 1"):
        train_run(config, tmp_path / "other", launcher=["false"], say=lines.append)
    with pytest.raises(ConfigError, match="training.launcher: no-such-launcher cannot be started"):
        train_run(config, tmp_path / "other", launcher=["no-such-launcher"], say=lines.append)


@pytest.mark.prove
def test_a_day_that_two_processes_train_goes_on_from_one_process_and_after_a_kill_and_is_promoted(
    tmp_path: Path,
) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(first_day(), shop)
    settings, made = shop / "shop.toml", shop / "pipeline" / "outputs" / "train"
    with_setting(settings, "training", f"launcher = {json.dumps(TWO)}")
    with_setting(settings, "training", 'incremental = ["train.epochs=60", "train.warmup_steps=0"]')
    command = [sys.executable, "-m", "recsys.cli", "pipeline", str(settings), "--day", nth_day(1).name]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        deadline_s = time.monotonic() + 240
        while not list(made.glob(f"*.partial/run/{CHECKPOINT}")):
            assert first.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.01)
        assert len(trainers(shop)) >= 3, "torchrun, and the two that it started"
        first.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 30
    while left := trainers(shop):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)
    (begun,) = made.glob("*.partial")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    state = read_state(state_file(shop / "pipeline", nth_day(1).name))
    assert state is not None and state.status == "promoted"
    assert Path(state.steps["train"].output).name == begun.name.removesuffix(".partial"), "it went on in that folder"
    facts = state.steps["train"].facts
    assert facts["mode"] == "incremental" and facts["auc"] > 0.7
    served = read_served(shop / "releases")
    assert served is not None and (served.models["shop"].live, served.revision) == (state.release, 2)


def trainers(shop: Path) -> list[str]:
    """Command lines of the processes that train for a shop."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "recsys.pipeline.train" in line and str(shop) in line:
            found.append(line)
    return found
