"""``recsys train`` killed with SIGKILL at random moments, and resumed until it ends.

Started as a program this file imports the command once, and forks a process for every try: imports take seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from support.tiny_run import NAMESAKES, odd_dataset
from support.torchrun import ROOT

from recsys.data.samples.stored import write_samples
from recsys.training.run.checkpoint import load
from recsys.training.run.record import read_record

KILLS = 3
SETTINGS = [
    *("data.recent=4", "model.attention=[6,5]", "model.head=[7]", "model.dropout=0.2", "tables.dim=4"),
    *("tables.learning_rate=0.1", "tables.regularization=0.1", "train.batch_size=5", "train.epochs=4"),
    *("train.learning_rate=0.003", "train.schedule=plateau", "train.decay=0.7", "train.warmup_steps=5"),
    *("train.evaluate_every=11", "train.patience=6", "train.checkpoint_steps=7"),
]


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = odd_dataset(NAMESAKES, tmp_path / "made")
    write_samples(data.samples, tmp_path / "log" / "samples")
    (tmp_path / "made" / NAMESAKES.name).rename(tmp_path / "log" / "events")
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "PYTHONWARNINGS": "ignore"},
    }
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    killed_at = json.loads(done.stdout.splitlines()[-1])
    assert len(killed_at) >= 2, "nothing was killed"
    whole, resumed = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "killed"))
    assert set(whole) == {"validation", "test", "samples_per_s", "best_step", "baselines"}
    del whole["samples_per_s"]
    resumed.pop("samples_per_s", None)
    assert resumed == whole, killed_at
    for file in ("checkpoint.pt", "best.pt"):
        ours, theirs = load(tmp_path / "killed" / file), load(tmp_path / "whole" / file)
        assert (ours.step, ours.loop["watch"]) == (theirs.step, theirs.loop["watch"])
        for mine, other in zip(ours.parts, theirs.parts, strict=True):
            assert torch.equal(mine["weights"], other["weights"])
            assert all(torch.equal(state, other["state"][name]) for name, state in mine["state"].items())
        assert all(torch.equal(value, theirs.dense[name]) for name, value in ours.dense.items())
    # The same command, going on from that run with the newest samples.
    config = json.loads((tmp_path / "next" / "config.json").read_text())
    assert (config["train"]["warm_start"], config["data"]["since"]) == ("whole", "0.05s")
    assert any((tmp_path / "next" / "tensorboard").iterdir())
    record = read_record(tmp_path / "next")
    assert record.recipe == "din" and record.overrides[-3:] == (
        *('train.warm_start="whole"', 'data.since="0.05s"', "train.tensorboard=true"),
    )


def train_forked(folder: Path, name: str, *options: str) -> int:
    """Its process id."""
    from recsys.cli import main

    if pid := os.fork():
        return pid
    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.argv = ["recsys", "train", "din", "data.dataset=./log", *SETTINGS, "--run-dir", name, *options]
    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def wait_for_checkpoints(checkpoint: Path, pid: int, count: int) -> None:
    """Wait until the checkpoint was written so often, or the process has ended."""
    before = written(checkpoint)
    while count and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
        if (now := written(checkpoint)) != before:
            before, count = now, count - 1


def written(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def kill_until_done(folder: Path) -> None:
    """Print at which steps of its checkpoints the run was killed."""
    import recsys.data.datasets
    import recsys.progress
    import recsys.training.loop  # noqa: F401 - before the forks

    _, status = os.waitpid(train_forked(folder, "whole"), 0)
    assert status == 0, status
    moments = random.Random(7)
    checkpoint = folder / "killed" / "checkpoint.pt"
    killed_at: list[int] = []
    while True:
        pid = train_forked(folder, "killed", "--resume")
        if len(killed_at) == KILLS:
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
            break
        wait_for_checkpoints(checkpoint, pid, moments.randint(1, 2))
        time.sleep(moments.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
        killed_at.append(load(checkpoint).step)
    options = ("--warm-start", "whole", "--since", "0.05s", "--tensorboard")
    _, status = os.waitpid(train_forked(folder, "next", *options), 0)
    assert status == 0, status
    print(json.dumps(killed_at))


if __name__ == "__main__":
    kill_until_done(Path(sys.argv[1]))
