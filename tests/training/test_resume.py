"""A run that was killed and resumed ends exactly as one that was not."""

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import TESTS
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

import recsys.training.loop as loop
import recsys.training.run.checkpoint as checkpoints
import recsys.training.start as start
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, DataFileError
from recsys.evaluation.predictions import read_predictions, write_predictions
from recsys.training.loop import train
from recsys.training.reports import RunResult, TrainingProgress
from recsys.training.run.checkpoint import load, restore, save, write_index
from recsys.training.settings import override
from recsys.training.trained import load_run, predict_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Path]:
    """The uninterrupted run: ten steps, a checkpoint every three and after each epoch of five."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(odd_config(), dataset, folder), folder


def assert_same_end(resumed: RunResult, folder: Path, whole: tuple[RunResult, Path]) -> None:
    assert (resumed.validation, resumed.test) == (whole[0].validation, whole[0].test)
    assert resumed.validation is not None and resumed.test is not None
    assert_equal(content(folder / "checkpoint.pt"), content(whole[1] / "checkpoint.pt"))


def content(checkpoint: Path) -> dict[str, Any]:
    values = {name: value for name, value in vars(load(checkpoint)).items() if name != "folder"}
    return {**values, "loop": {name: value for name, value in values["loop"].items() if name != "seconds"}}


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list):
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(1, 13))
def test_interrupted_at_any_report_it_ends_the_same(
    call: int, dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path
) -> None:
    calls = []

    def interrupt(progress: TrainingProgress) -> None:
        calls.append(progress)
        if len(calls) == call:
            raise Killed

    with pytest.raises(Killed):
        train(odd_config(), dataset, tmp_path / "run", report=interrupt)
    assert not (tmp_path / "run" / "metrics.json").exists()
    steps: list[int] = []
    resumed = train(odd_config(), dataset, tmp_path / "run", resume=True, report=lambda p: steps.append(p.step))
    assert_same_end(resumed, tmp_path / "run", whole)
    saved = max([s for s in (3, 5, 6, 9, 10) if s < calls[-1].step or calls[-1].validation], default=0)
    saved = min(saved, calls[-1].step)
    assert min(steps, default=11) == saved + 1  # it went on from the checkpoint, not from the beginning


@pytest.mark.parametrize(("checkpoint_steps", "nth"), [*((3, nth) for nth in range(1, 6)), (5, 1), (5, 2)])
def test_killed_right_after_any_checkpoint_it_ends_the_same(
    checkpoint_steps: int,
    nth: int,
    dataset: Dataset,
    whole: tuple[RunResult, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With 5, every checkpoint is taken after the last batch of an epoch, before the epoch is counted.
    config = override(odd_config(), [f"train.checkpoint_steps={checkpoint_steps}"])
    saves = []

    def save_and_die(*args: Any, **options: Any) -> None:
        save(*args, **options)
        saves.append(options)
        if len(saves) == nth:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "save", save_and_die)
        train(config, dataset, tmp_path / "run")
    assert_same_end(train(config, dataset, tmp_path / "run", resume=True), tmp_path / "run", whole)


def test_killed_by_the_system_it_ends_the_same(dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from support.tiny_run import NAMESAKES, odd_config, odd_dataset
        from recsys.training.loop import train

        def report(progress):
            if progress.step == 8:
                print("here", flush=True)
                time.sleep(600)

        folder = Path(sys.argv[1])
        train(odd_config(), odd_dataset(NAMESAKES, folder), folder / "run", report=report)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), str(tmp_path)]
    path = [str(TESTS), str(Path(loop.__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(path)}) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    assert load(tmp_path / "run" / "checkpoint.pt").step == 6
    resumed = train(odd_config(), dataset, tmp_path / "run", resume=True)
    assert_same_end(resumed, tmp_path / "run", whole)


def test_resuming_a_finished_run_measures_it_again(
    dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path
) -> None:
    train(odd_config(), dataset, tmp_path / "run")
    steps: list[TrainingProgress] = []
    again = train(odd_config(), dataset, tmp_path / "run", resume=True, report=steps.append)
    assert steps == []
    assert_same_end(again, tmp_path / "run", whole)


def test_resuming_nothing_begins_anew(dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path) -> None:
    assert_same_end(train(odd_config(), dataset, tmp_path / "run", resume=True), tmp_path / "run", whole)


@pytest.mark.parametrize("before_the_first_checkpoint", [True, False])
def test_resuming_with_another_configuration_is_refused(
    before_the_first_checkpoint: bool, dataset: Dataset, tmp_path: Path
) -> None:
    def interrupt(progress: TrainingProgress) -> None:
        if progress.step == (2 if before_the_first_checkpoint else 4):
            raise Killed

    with pytest.raises(Killed):
        train(odd_config(), dataset, tmp_path / "run", report=interrupt)
    message = f"{tmp_path / 'run'} holds a run of another configuration: "
    message += "tables.learning_rate was 0.3, is 0.5; train.seed was 2026, is 1"
    changed = override(odd_config(), ["train.seed=1", "tables.learning_rate=0.5"])
    with pytest.raises(ConfigError, match=re.escape(message) + "$"):
        train(changed, dataset, tmp_path / "run", resume=True)
    message = (
        f"{tmp_path / 'run'} takes 30 samples per step, 1 processes of train.batch_size 20 would take 20; "
        "resume with train.batch_size=30"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(override(odd_config(), ["train.batch_size=20"]), dataset, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: not a run configuration: "),
        ('{"task": "retrieval"}', "run holds a run of a model that ranks all items; expected one of a ranking model"),
    ],
)
def test_resuming_what_is_no_run_of_a_ranking_model_is_refused(
    content: str, message: str, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(DataFileError, match=re.escape(message)):
        train(odd_config(), dataset, tmp_path / "run", resume=True)


def test_predictions_made_halfway_do_not_outlive_the_weights_they_are_of(dataset: Dataset, tmp_path: Path) -> None:
    def interrupt(progress: TrainingProgress) -> None:
        if progress.step == 4:
            raise Killed

    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(odd_config(), dataset, run, report=interrupt)
    halfway = predict_run(load_run(run), dataset, "train")
    assert halfway is not None
    write_predictions(run, {"train": halfway})
    train(odd_config(), dataset, run, resume=True)
    assert len(read_predictions(run, "test")) == len(dataset.split("test"))
    with pytest.raises(DataFileError, match="no predictions of the train split; found: test, validation"):
        read_predictions(run, "train")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_weight(file: Path) -> None:
    content = bytearray(file.read_bytes())
    weights = next(p["weights"] for p in load(file).parts if p["table"] == "user").numpy().tobytes()
    content[content.index(weights)] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "checkpoint.pt: not a readable checkpoint: "),
        (flip_a_weight, "checkpoint.pt: not a readable checkpoint: the checksum of "),
        (lambda f: f.write_bytes(b""), "checkpoint.pt: not a readable checkpoint: "),
        (lambda f: torch.save([1], f), "checkpoint.pt: checkpoint format None, this program reads 4"),
        (lambda f: torch.save({"format_version": 2}, f), "checkpoint.pt: checkpoint format 2, this program reads 4"),
        (lambda f: torch.save({"format_version": 4, "step": 3}, f), "checkpoint.pt: not a whole checkpoint: dense, "),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    damage: Callable[[Path], None], message: str, dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in whole[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder / "checkpoint.pt")
    with pytest.raises(DataFileError, match=re.escape(message)):
        train(odd_config(), dataset, folder, resume=True)


def test_a_checkpoint_of_other_tables_is_refused(
    dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path
) -> None:
    checkpoint = load(whole[1] / "checkpoint.pt")
    checkpoint.tables["user"] = [3, 8]
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "data.json", "row_maps.npz"):
        (folder / name).write_bytes((whole[1] / name).read_bytes())
    write_index(checkpoint, folder / "checkpoint.pt")
    with pytest.raises(DataFileError, match=r"the checkpoint holds .*user \[3, 8\].*: it is of another run"):
        train(odd_config(), dataset, folder, resume=True)


@pytest.mark.parametrize("change", ["model.head=[9]", "model.kind=dcn"])
def test_a_checkpoint_of_another_model_is_refused(
    change: str, dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path
) -> None:
    other = train(override(odd_config(), [change]), dataset, tmp_path / "other").trained
    with pytest.raises(DataFileError, match=r"the checkpoint is of another network: .* It is of another run"):
        restore(load(whole[1] / "checkpoint.pt"), other.model)


def test_a_kill_while_saving_leaves_the_old_checkpoint(
    whole: tuple[RunResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load(whole[1] / "checkpoint.pt")
    write_index(old, tmp_path / "checkpoint.pt")

    def half(values: Any, stream: Any) -> None:
        stream.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        write_index(old, tmp_path / "checkpoint.pt")
    assert_equal(content(tmp_path / "checkpoint.pt"), content(whole[1] / "checkpoint.pt"))


def test_resuming_on_other_data_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    train(odd_config(), dataset, tmp_path / "run")
    splits = {**dataset.samples.splits, "test": dataset.split("train")}
    other = replace(dataset, samples=replace(dataset.samples, splits=splits))
    with pytest.raises(ConfigError, match=r"run was trained on other data: its fingerprint is [0-9a-f]{16}, "):
        train(odd_config(), other, tmp_path / "run", resume=True)
    (tmp_path / "run" / "data.json").unlink()
    with pytest.raises(DataFileError, match=r"run: its data\.json cannot be read: "):
        train(odd_config(), dataset, tmp_path / "run", resume=True)


def test_a_resumed_run_numbers_rows_as_its_checkpoint_does(
    dataset: Dataset, whole: tuple[RunResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that would order a vocabulary otherwise must not use the old rows for other ids."""
    shutil.copytree(whole[1], tmp_path / "run")

    def otherwise(*_: Any) -> Any:
        raise AssertionError("the row maps are built anew")

    monkeypatch.setattr(start, "build_row_maps", otherwise)
    assert_same_end(train(odd_config(), dataset, tmp_path / "run", resume=True), tmp_path / "run", whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_dropout_goes_on_from_the_checkpoint_too(dataset: Dataset, tmp_path: Path) -> None:
    def interrupt(progress: TrainingProgress) -> None:
        if progress.step == 4:
            raise Killed

    gpu = torch.device("cuda", 0)
    before = train(odd_config(), dataset, tmp_path / "whole", device=gpu)
    with pytest.raises(Killed):
        train(odd_config(), dataset, tmp_path / "run", device=gpu, report=interrupt)
    torch.cuda.manual_seed(99)
    after = train(odd_config(), dataset, tmp_path / "run", device=gpu, resume=True)
    assert before.test is not None and after.test is not None
    ours, theirs = (load(tmp_path / name / "checkpoint.pt").random for name in ("run", "whole"))
    assert_equal(ours, theirs)
    assert set(ours[0]) == {"cpu", "cuda"}
    assert after.test.log_loss == pytest.approx(before.test.log_loss, abs=1e-5)  # sums on a GPU vary in order


def test_the_generator_of_the_models_device_is_saved(
    whole: tuple[RunResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = whole[0].trained.model
    saved = load(whole[1] / "checkpoint.pt")
    assert [set(each) for each in saved.random] == [{"cpu"}]
    state = torch.arange(16, dtype=torch.uint8)
    monkeypatch.setattr(checkpoints, "_device", lambda model: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    optimizer = torch.optim.AdamW(model.module.net.parameters())
    save(model, optimizer, tmp_path / "checkpoint.pt", step=0, loader={})
    (random,) = load(tmp_path / "checkpoint.pt").random
    assert torch.equal(random["cuda"], state)
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(state))
    checkpoints.restore(replace(saved, random=[{**saved.random[0], "cuda": state}]), model, optimizer)
    assert torch.equal(restored[0], state)
