"""A run of several processes is the run of one.

Started as a program, this file imports once and forks the processes, as ``torchrun`` would start them (which
``tests/embeddings/sharding/test_sharding.py`` uses). What they saw, the first writes as JSON.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from support.tiny_run import NAMESAKES, odd_config, odd_dataset
from support.torchrun import ROOT

import recsys.training.loop as loop
import recsys.training.run.checkpoint as checkpoints
from recsys.data.samples.dataset import Dataset
from recsys.embeddings.sharding.plan import PlannedTable
from recsys.embeddings.sharding.shard import local_world_size, start_process_group, table_weights
from recsys.errors import ConfigError, DataFileError, RecsysError
from recsys.training.config import RunConfig
from recsys.training.distributed.processes import end_process, gather, world
from recsys.training.loop import train
from recsys.training.reports import RunResult, plan_table
from recsys.training.run.checkpoint import load, save
from recsys.training.settings import override
from recsys.training.trained import evaluate_run, load_run, plan_run

PER_STEP = 28
RUNS = {
    "table_wise": ["tables.sharding=table_wise"],
    "row_wise": ["tables.sharding=row_wise"],
    "table_row_wise": ["tables.sharding=table_row_wise"],
    "autoint": ["model.kind=autoint", "model.history=mean", "model.head=[7]", "model.batch_norm=true"],
    "mixed": ["tables.shardings.user=row_wise", "tables.shardings.item_id=column_wise", "tables.optimizer=adam"],
}
TOLERANCE = {"autoint": 1e-4}
"""A layer before a batch norm has weights without a gradient; Adam makes their rounding as large as any other step,
and the step of one sample, which reads running statistics, sees it."""

STOPPING = ["train.evaluate_every=2", "train.patience=2", "train.schedule=plateau", "train.pipeline=sparse_dist"]
STILL = ["tables.learning_rate=0", "tables.regularization=0", "train.learning_rate=0", "train.epochs=1"]
"""A run that changes nothing: what it ends with is what it began with."""

MOVING = ["row_wise", "mixed"]
"""Runs that also go on in two processes and return to one."""


class Killed(BaseException):
    pass


def dataset(folder: Path) -> Dataset:
    """Five steps and one of a single sample per epoch: one of two processes has none."""
    data = odd_dataset(NAMESAKES, folder)
    splits = {**data.samples.splits, "train": data.split("train")[: 5 * PER_STEP + 1]}
    return replace(data, samples=replace(data.samples, splits=splits))


def config(name: str, processes: int) -> RunConfig:
    """Everything that processes must divide, without dropout, which is random in each."""
    common = ["tables.dim=8", "model.dropout=0", "tables.learning_rate=0.05"]
    if name != "autoint":
        common.append("model.attention_act=dice")
    return override(odd_config(), [*common, f"train.batch_size={PER_STEP // processes}", *RUNS[name]])


def train_until(saves: int, settings: RunConfig, data: Dataset, folder: Path) -> None:
    """Train, or go on; end all processes after so many checkpoints."""
    left = saves

    def save_and_die(*args: Any, **options: Any) -> None:
        nonlocal left
        save(*args, **options)
        left -= 1
        if not left:
            raise Killed

    loop.save = save_and_die  # type: ignore[attr-defined]
    try:
        with pytest.raises(Killed):
            train(settings, data, folder, resume=True)
    finally:
        loop.save = save  # type: ignore[attr-defined]


def curve(settings: RunConfig, data: Dataset, folder: Path) -> dict[str, Any]:
    losses: list[float] = []
    plan: list[PlannedTable] = []
    result = train(settings, data, folder, report=lambda p: losses.append(p.loss), show_plan=plan.extend)
    return {"losses": losses, "plan": {p.table: [p.sharding, list(p.ranks)] for p in plan}, **metrics(result)}


def metrics(result: RunResult) -> dict[str, Any]:
    assert result.validation is not None and result.test is not None
    return {"validation": vars(result.validation), "test": vars(result.test)}


def message_of(action: Callable[[], object]) -> str:
    try:
        action()
    except (RecsysError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def process(folder: Path) -> None:
    """What each of two processes does."""
    data = dataset(folder / f"data-of-{os.environ['RANK']}")
    seen: dict[str, Any] = {name: curve(config(name, 2), data, folder / name) for name in RUNS}
    for name in MOVING:
        train_until(2, config(name, 2), data, folder / f"moving-{name}")
    with_dropout = override(config("row_wise", 2), ["model.dropout=0.3"])
    seen["dropout"] = curve(with_dropout, data, folder / "dropout")
    train_until(1, with_dropout, data, folder / "dropout-stopped")
    seen["dropout_resumed"] = metrics(train(with_dropout, data, folder / "dropout-stopped", resume=True))
    seen["generators"] = gather(torch.initial_seed())
    stopping = override(config("row_wise", 2), STOPPING)
    seen["stopping"] = curve(stopping, data, folder / "stopping")
    train_until(2, stopping, data, folder / "stopping-stopped")
    seen["stopping_resumed"] = metrics(train(stopping, data, folder / "stopping-stopped", resume=True))
    started: list[str] = []
    warm = override(config("row_wise", 2), [*STILL, f'train.warm_start="{folder / "table_wise"}"'])
    train(warm, data, folder / "warm", show_start=lambda start: started.append(str(start)))
    seen["started"] = gather(started)
    settings = config("row_wise", 2)
    larger = override(settings, ["train.batch_size=28"])
    seen["too_many"] = message_of(lambda: train(larger, data, folder / "row_wise", resume=True))
    odd = override(settings, ["train.batch_size=7"])
    seen["does_not_divide"] = message_of(lambda: train(odd, data, folder / "odd", resume=True))
    seen["holds_a_run"] = gather(message_of(lambda: train(settings, data, folder / "row_wise")))
    seen["apart"] = message_of(lambda: train(settings, data, folder / f"apart-{world().rank}"))
    if world().rank == 1:
        checkpoints.atomic_file = no_room  # type: ignore[attr-defined]
    seen["no_room"] = gather(message_of(lambda: train(settings, data, folder / "no-room")))
    if world().rank == 0:
        (folder / "seen.json").write_text(json.dumps(seen))


def no_room(path: Path) -> Any:
    raise OSError(28, "No space left on device", str(path))


def fork_two(run: Callable[[Path], None], folder: Path) -> tuple[int, int, float]:
    """How two processes ended, and seconds from the second's end to the first's; forked: imports take seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "by-hand"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            signal.alarm(100)  # one that hangs ends too
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                run(folder)
            except BaseException:
                traceback.print_exc()
                end_process(1)
            end_process(0)
        pids.append(pid)
    second = os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1])
    ended = time.monotonic()
    first = os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])
    return first, second, time.monotonic() - ended


def process_that_dies(folder: Path) -> None:
    """One of two processes; the second is killed while it writes its second part."""
    data = dataset(folder / f"data-of-{os.environ['RANK']}")
    files = 0

    def die(path: Path) -> Any:
        nonlocal files
        files += 1
        if files == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path)

    whole = checkpoints.atomic_file  # type: ignore[attr-defined]
    if os.environ["RANK"] == "1":
        checkpoints.atomic_file = die  # type: ignore[attr-defined]
    said = message_of(lambda: train(config("row_wise", 2), data, folder / "run"))
    (folder / "said").write_text(said)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The runs in one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: curve(config(name, 1), data, folder / name) for name in RUNS}


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    for name in MOVING:
        train_until(1, config(name, 1), data, folder / f"moving-{name}")
    train_until(1, override(config("row_wise", 1), ["train.batch_size=15"]), data, folder / "odd")
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "PYTHONWARNINGS": "ignore"},
    }
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return values


def assert_same_metrics(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = 1e-5) -> None:
    for split in ("validation", "test"):
        assert ours[split].keys() == theirs[split].keys()
        # Rounding that is larger than usual makes two scores change places, or a bin: these metrics then jump
        jumping = {"auc", "gauc", "calibration_error"} if tolerance > 1e-5 else set()
        smooth = theirs[split].keys() - jumping
        assert {name: ours[split][name] for name in smooth} == pytest.approx(
            {name: theirs[split][name] for name in smooth}, abs=tolerance
        )


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_of_one(name: str, seen: dict[str, Any], alone: dict[str, Any]) -> None:
    assert len(seen[name]["losses"]) == 14  # twelve steps, and a report after each epoch
    # Rounding alone, which twelve steps amplify.
    tolerance = TOLERANCE.get(name, 1e-5)
    np.testing.assert_allclose(seen[name]["losses"], alone[name]["losses"], rtol=0, atol=tolerance)
    assert_same_metrics(seen[name], alone[name], tolerance)


def test_tables_are_spread_as_asked(seen: dict[str, Any]) -> None:
    for name in ("row_wise", "table_row_wise"):
        assert set(map(str, seen[name]["plan"].values())) == {f"['{name}', [0, 1]]"}
    assert {kind for kind, _ in seen["table_wise"]["plan"].values()} == {"table_wise"}
    assert {kind for kind, _ in seen["autoint"]["plan"].values()} == {"row_wise"}  # without a wish
    assert seen["mixed"]["plan"]["user"][0] == "row_wise"
    assert seen["mixed"]["plan"]["item_id"][0] == "column_wise"


@pytest.mark.parametrize("name", MOVING)
def test_a_run_moves_to_two_processes_and_back(
    name: str, folder: Path, seen: dict[str, Any], alone: dict[str, Any], data: Dataset
) -> None:
    moving = folder / f"moving-{name}"
    assert load(moving / "checkpoint.pt").step == 9  # step 3 in one process, the end of the epoch and step 9 in two
    steps: list[int] = []
    result = train(config(name, 1), data, moving, resume=True, report=lambda p: steps.append(p.step))
    assert steps[0] == 10
    assert_same_metrics(metrics(result), alone[name])
    assert not (moving / "checkpoint").exists()


def test_with_dropout_two_processes_go_on_where_they_were(seen: dict[str, Any]) -> None:
    assert seen["dropout_resumed"] == {split: seen["dropout"][split] for split in ("validation", "test")}
    assert len(set(seen["generators"])) == 2  # each drops others
    assert seen["dropout"]["test"] != seen["row_wise"]["test"]


def test_two_processes_stop_early_where_one_does(
    folder: Path, seen: dict[str, Any], data: Dataset, tmp_path: Path
) -> None:
    one = curve(override(config("row_wise", 1), STOPPING), data, tmp_path / "stopping")
    assert len(one["losses"]) == len(seen["stopping"]["losses"])
    assert_same_metrics(seen["stopping"], one)
    assert seen["stopping_resumed"] == {split: seen["stopping"][split] for split in ("validation", "test")}
    best, last = (load(folder / "stopping" / name) for name in ("best.pt", "checkpoint.pt"))
    assert best.step == last.loop["watch"]["best_step"] <= last.step - 4
    assert {file.name for file in (folder / "stopping" / "best").iterdir()} == set(best.files)
    trained = load_run(folder / "stopping")
    assert vars(evaluate_run(trained, data, "test")) == pytest.approx(seen["stopping"]["test"], abs=1e-6)


def test_each_process_takes_its_parts_of_a_warm_start(folder: Path, seen: dict[str, Any]) -> None:
    ours, theirs = (table_weights(load_run(folder / name).model) for name in ("warm", "table_wise"))
    for table, weights in theirs.items():
        assert torch.equal(ours[table], weights), table
    rows = sum(len(weights) for weights in theirs.values())
    assert seen["started"][0][0].startswith(
        f"warm start from table_wise: {rows} rows taken, 0 ids are new, 0 ids dropped"
    )
    assert seen["started"][1] == []


@pytest.mark.parametrize("name", RUNS)
def test_one_process_reads_what_two_wrote(name: str, folder: Path, tmp_path: Path, seen: dict[str, Any]) -> None:
    together = load_run(folder / name)
    checkpoint = load(folder / name / "checkpoint.pt")
    assert {file.name for file in (folder / name / "checkpoint").iterdir()} == set(checkpoint.files)
    assert len(checkpoint.files) == len(checkpoint.random) == 2
    assert checkpoint.parts == []
    # The same tables in one file are the same bytes, which is what an export writes.
    optimizer = torch.optim.AdamW(together.model.module.net.parameters())
    save(together.model, optimizer, tmp_path / "checkpoint.pt", step=checkpoint.step, loader=checkpoint.loader)
    (tmp_path / "config.json").write_bytes((folder / name / "config.json").read_bytes())
    for file in ("features.json", "data.json", "row_maps.npz"):
        (tmp_path / file).write_bytes((folder / name / file).read_bytes())
    one_file = load_run(tmp_path)
    ours, theirs = table_weights(together.model), table_weights(one_file.model)
    assert {t: w.numpy().tobytes() for t, w in ours.items()} == {t: w.numpy().tobytes() for t, w in theirs.items()}
    assert not (tmp_path / "checkpoint").exists()


def test_a_part_that_is_missing_or_damaged_is_named(folder: Path, seen: dict[str, Any]) -> None:
    run = folder / "table_wise"
    part = sorted((run / "checkpoint").iterdir())[-1]
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    with pytest.raises(DataFileError, match=rf"{part.name}: {len(content) - 1} bytes, .* names {len(content)}"):
        load_run(run)
    middle = len(content) // 2
    part.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(DataFileError, match=rf"{part.name}: not a readable checkpoint: "):
        load_run(run)
    part.unlink()
    with pytest.raises(DataFileError, match=rf"checkpoint/{part.name} is missing: .*checkpoint.pt names it; restore"):
        load_run(run)
    part.write_bytes(content)
    load_run(run)


def test_resuming_with_other_samples_per_step_says_which_are_right(folder: Path, seen: dict[str, Any]) -> None:
    assert seen["too_many"] == (
        f"ConfigError: {folder / 'row_wise'} takes 28 samples per step, 2 processes of train.batch_size 28 would take "
        "56; resume with train.batch_size=14"
    )
    assert seen["does_not_divide"] == (
        f"ConfigError: {folder / 'odd'} takes 15 samples per step, 2 processes of train.batch_size 7 would take 14; "
        "resume with a number of processes that divides 15"
    )


def test_an_error_of_the_first_process_is_the_error_of_all(folder: Path, seen: dict[str, Any]) -> None:
    advice = "go on with it (--resume), or choose another folder: --run-dir runs/NAME"
    message = f"ConfigError: {folder / 'row_wise'} holds a run already: {advice}"
    assert seen["holds_a_run"] == [message, message]


def test_a_process_that_cannot_write_its_part_ends_all_with_its_reason(folder: Path, seen: dict[str, Any]) -> None:
    first, second = seen["no_room"]
    assert re.match(
        r"RecsysError: writing the checkpoint failed in process 1: .*No space left on device: '.*-1.pt'", first
    )
    assert re.match(r"OSError: .*No space left on device: '.*-1.pt'", second)
    assert not (folder / "no-room" / "checkpoint.pt").exists()


def test_a_run_folder_that_is_another_on_another_host_is_refused(folder: Path, seen: dict[str, Any]) -> None:
    host = socket.gethostname()
    assert seen["apart"] == (
        f"ConfigError: {folder / 'apart-0'} of process 0 on host {host} is another folder than that of process 1 on "
        f"host {host}; put it on a file system that all hosts share, at the same path"
    )
    assert list((folder / "apart-0").iterdir()) == []


def test_when_one_process_is_killed_the_other_says_so_and_the_old_checkpoint_stays(folder: Path) -> None:
    ended = json.loads((folder / "died.json").read_text())
    assert (ended["first"], ended["second"]) == (0, -signal.SIGKILL)
    assert ended["between_s"] < 20
    assert ended["said"].startswith(
        "RecsysError: process 0 of 2: another process of this run at 127.0.0.1 ended, its host was cut off "
    )
    assert ended["said"].endswith("its own message says why. Go on from the last checkpoint with --resume")
    checkpoint = load(folder / "dies" / "run" / "checkpoint.pt")
    assert checkpoint.step == 3
    assert set(checkpoint.files) < {file.name for file in (folder / "dies" / "run" / "checkpoint").iterdir()}


def test_a_plan_needs_neither_processes_nor_gpus(data: Dataset) -> None:
    settings = override(odd_config(), ["tables.shardings.user=row_wise", "tables.uvm_cache=0.1"])
    planned = {part.table: part for part in plan_run(settings, data, device="cuda", processes=8, hosts=2)}
    assert planned["user"].ranks == tuple(range(8))
    assert planned["user"].kernel == "fused_uvm_caching"
    with pytest.raises(ConfigError, match="8 processes on 3 hosts; allowed: the same number on every host"):
        plan_run(settings, data, processes=8, hosts=3)
    wrong = override(settings, ["tables.shardings.usr=row_wise"])
    with pytest.raises(ConfigError, match=r"tables.shardings names no table 'usr': did you mean 'user'\?"):
        plan_run(wrong, data, processes=2)


def test_hosts_with_different_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start_process_group(torch.device("cpu"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="1 processes, 2 of them on this host; allowed: the same number on every"):
        local_world_size()


def test_a_plan_prints_one_line_per_table() -> None:
    part = PlannedTable(
        table="user",
        num_rows=2_000_000,
        dim=32,
        sharding="row_wise",
        kernel="fused",
        ranks=(0, 1, 2, 3),
        size_bytes=256_000_000,
        state_bytes=8_000_000,
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(plan_table([part, dataclasses.replace(part, table="item", kernel="fused_uvm_caching", ranks=(0, 2))]))
    assert [line.split() for line in console.export_text().splitlines()] == [
        ["table", "rows", "width", "sharding", "ranks", "MiB", "optimizer", "MiB"],
        ["user", "2,000,000", "32", "row_wise", "0-3", "244.14", "7.63"],
        ["item", "2,000,000", "32", "row_wise", "(cached)", "0,", "2", "244.14", "7.63"],
    ]


def test_what_cannot_be_trained_so_is_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column_wise sharding with tables.optimizer rowwise_adagrad: its step size"):
        override(odd_config(), ["tables.shardings.user=column_wise"])
    with pytest.raises(ConfigError, match=r"tables.uvm_cache is 1.0; allowed: 0 to below 1"):
        override(odd_config(), ["tables.uvm_cache=1"])
    with pytest.raises(ConfigError, match=r"tables.shardings.user is 'rowwise': did you mean 'row_wise'\?"):
        override(odd_config(), ["tables.shardings.user=rowwise"])
    cached = override(odd_config(), ["tables.uvm_cache=0.5"])
    with pytest.raises(ConfigError, match="tables.uvm_cache is 0.5, but training runs on CPU; it caches tables in GPU"):
        train(cached, data, tmp_path / "run", device=torch.device("cpu"))
    wrong = override(odd_config(), ["tables.shardings.usr=row_wise"])
    with pytest.raises(ConfigError, match=r"tables.shardings names no table 'usr': did you mean 'user'\?"):
        train(wrong, data, tmp_path / "run")


if __name__ == "__main__":
    whole = Path(sys.argv[1])
    first, second, _ = fork_two(process, whole)
    assert (first, second) == (0, 0)
    (whole / "dies").mkdir()
    first, second, between_s = fork_two(process_that_dies, whole / "dies")
    facts = {"first": first, "second": second, "between_s": between_s, "said": (whole / "dies" / "said").read_text()}
    (whole / "died.json").write_text(json.dumps(facts))
