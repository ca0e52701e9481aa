"""Schedules, and what evaluations on the validation split decide."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.evaluate import Metrics
from recsys.training.config import RunConfig, TrainConfig
from recsys.training.early_stopping import EarlyStopping, is_evaluated
from recsys.training.loop import train
from recsys.training.reports import RunResult, TrainingProgress
from recsys.training.run.checkpoint import load
from recsys.training.run.record import read_record
from recsys.training.schedules import rate_factor
from recsys.training.settings import override
from recsys.training.trained import evaluate_run, load_run


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


def stopping_config() -> RunConfig:
    """Twenty steps, an evaluation every two; labels are random, so that it stops soon."""
    changes = ["train.epochs=4", "train.evaluate_every=2", "train.patience=3", "train.schedule=plateau"]
    return override(odd_config(), [*changes, "train.decay=0.5", "train.learning_rate=0.001", "train.warmup_steps=0"])


def values(*, auc: float = 0.5, gauc: float | None = None, log_loss: float = 0.7) -> Metrics:
    return Metrics(auc=auc, gauc=gauc, log_loss=log_loss, samples=2, positives=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 6),
        ({"schedule": "linear"}, [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]),
        ({"schedule": "step", "decay": 0.5}, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]),
        ({"schedule": "step", "decay": 0.5, "decay_epochs": 2}, [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]),
        ({"schedule": "linear", "warmup_steps": 2}, [1 / 2, 1.0, 1.0, 3 / 4, 2 / 4, 1 / 4]),
    ],
)
def test_each_schedule_is_what_its_name_says(changes: dict[str, object], expected: list[float]) -> None:
    config = TrainConfig(**{"warmup_steps": 0, **changes})  # type: ignore[arg-type]
    found = [rate_factor(config, step=step, steps=6, epoch=step // 2) for step in range(6)]
    assert found == pytest.approx(expected)


def test_plateau_multiplies_the_rates_after_every_evaluation_without_an_improvement() -> None:
    config = TrainConfig(schedule="plateau", warmup_steps=2, patience=9)
    stopping = EarlyStopping()
    factors = []
    for auc in (0.6, 0.6, 0.7, 0.65, 0.66):
        stopping.update(values(auc=auc), config, step=1)
        factors.append(rate_factor(config, step=5, steps=10, reductions=stopping.reductions))
    assert factors == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.001])
    assert rate_factor(config, step=0, steps=10, reductions=2) == 0.5  # warming up


@pytest.mark.parametrize(
    ("monitor", "seen", "improved"),
    [
        ("auc", [{"auc": 0.5}, {"auc": 0.6}, {"auc": 0.6}, {"auc": 0.605}, {"auc": 0.62}], [1, 1, 0, 0, 1]),
        ("gauc", [{"gauc": 0.5}, {"gauc": 0.4}], [1, 0]),
        ("log_loss", [{"log_loss": 0.7}, {"log_loss": 0.6}, {"log_loss": 0.65}], [1, 1, 0]),
    ],
)
def test_an_improvement_is_a_gain_of_more_than_min_delta(
    monitor: str, seen: list[dict[str, float]], improved: list[int]
) -> None:
    config = TrainConfig(monitor=monitor, min_delta=0.01, patience=2)  # type: ignore[arg-type]
    stopping = EarlyStopping()
    assert [stopping.update(values(**each), config, step=0) for each in seen] == list(map(bool, improved))


def test_a_metric_without_a_value_cannot_be_monitored() -> None:
    with pytest.raises(
        ConfigError, match="train.monitor is 'gauc', which has no value on this validation split: no us"
    ):
        EarlyStopping().update(values(gauc=None), TrainConfig(monitor="gauc"), step=1)


def test_evaluations_come_every_so_many_steps_and_at_the_end() -> None:
    def found(config: TrainConfig) -> list[int]:
        return [s for s in range(1, 11) if is_evaluated(config, step=s, steps=10, steps_per_epoch=5)]

    assert found(TrainConfig()) == [5, 10]
    assert found(TrainConfig(evaluate_every=3)) == [3, 6, 9, 10]


@pytest.fixture(scope="module")
def stopped(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunResult, Path, list[TrainingProgress]]:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    seen: list[TrainingProgress] = []
    return train(stopping_config(), dataset, folder, report=seen.append), folder, seen


def test_it_stops_after_patience_and_ends_with_the_best_weights(
    stopped: tuple[RunResult, Path, list[TrainingProgress]], dataset: Dataset
) -> None:
    result, folder, seen = stopped
    evaluations = [(p.step, p.validation.auc) for p in seen if p.validation is not None]
    best_step, best = max(evaluations, key=lambda each: each[1])  # the first of equals
    assert result.best_step == best_step < 20
    assert evaluations[-1][0] == best_step + 3 * 2 == max(p.step for p in seen) < 20
    assert result.validation is not None and result.validation.auc == best
    loaded = load_run(folder)
    assert evaluate_run(loaded, dataset, "validation") == result.validation
    assert evaluate_run(loaded, dataset, "test") == result.test
    assert load(folder / "best.pt").step == best_step
    assert json.loads((folder / "metrics.json").read_text())["best_step"] == best_step
    record = read_record(folder)
    assert record.best_epoch == -(-best_step // 5) and record.epochs == -(-evaluations[-1][0] // 5)
    assert record.peak_memory_mib > 100 and record.metrics["test"]["auc"] == result.test.auc  # type: ignore[union-attr]


def test_the_rates_fell_after_each_evaluation_that_was_no_improvement(
    stopped: tuple[RunResult, Path, list[TrainingProgress]],
) -> None:
    best, reductions = -1.0, 0
    for progress in stopped[2]:
        if progress.validation is None:
            assert progress.rate == pytest.approx(0.001 * 0.5**reductions)
            assert progress.table_rate == pytest.approx(0.3 * 0.5**reductions)
        elif progress.validation.auc > best:
            best = progress.validation.auc
        else:
            reductions += 1
    assert reductions >= 3


@pytest.mark.parametrize("call", [2, 4, 7, 9])
def test_killed_anywhere_it_stops_where_it_would_have(
    call: int, stopped: tuple[RunResult, Path, list[TrainingProgress]], dataset: Dataset, tmp_path: Path
) -> None:
    calls = 0

    def interrupt(progress: TrainingProgress) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed

    with pytest.raises(Killed):
        train(stopping_config(), dataset, tmp_path / "run", report=interrupt)
    again = train(stopping_config(), dataset, tmp_path / "run", resume=True)
    whole, folder, _ = stopped
    assert (again.validation, again.test, again.best_step) == (whole.validation, whole.test, whole.best_step)
    for file in ("checkpoint.pt", "best.pt"):
        ours, theirs = load(tmp_path / "run" / file), load(folder / file)
        assert ours.loop["watch"] == theirs.loop["watch"] and ours.step == theirs.step
        for mine, other in zip(ours.parts, theirs.parts, strict=True):
            assert torch.equal(mine["weights"], other["weights"])


def test_resuming_a_run_that_stopped_takes_no_step(
    stopped: tuple[RunResult, Path, list[TrainingProgress]], dataset: Dataset
) -> None:
    steps: list[TrainingProgress] = []
    again = train(stopping_config(), dataset, stopped[1], resume=True, report=steps.append)
    assert steps == [] and again.test == stopped[0].test and again.samples_per_s == 0


def with_split(dataset: Dataset, name: str, indices: np.ndarray) -> Dataset:
    splits = {**dataset.samples.splits, name: indices}
    return replace(dataset, samples=replace(dataset.samples, splits=splits))


def of_label(label: int, split: str) -> Callable[[Dataset], Dataset]:
    def change(dataset: Dataset) -> Dataset:
        indices = dataset.split(split)
        return with_split(dataset, split, indices[dataset.samples.label[indices] == label])

    return change


def first_of_each_user(dataset: Dataset) -> np.ndarray:
    return np.unique(dataset.sample_user[dataset.split("validation")], return_index=True)[1]


def infinity_in(side: str, name: str) -> Callable[[Dataset], Dataset]:
    def change(dataset: Dataset) -> Dataset:
        columns = dict(getattr(dataset, side))
        columns[name] = columns[name].copy()
        columns[name][3] = np.inf
        return replace(dataset, **{side: columns})

    return change


@pytest.mark.parametrize(
    ("changes", "change", "message"),
    [
        (
            ["train.patience=1"],
            lambda d: with_split(d, "validation", np.zeros(0, dtype=np.int64)),
            "train.patience 1 looks at the validation split, which is empty; declare one, or train without",
        ),
        (
            ["train.schedule=plateau"],
            lambda d: with_split(d, "validation", np.zeros(0, dtype=np.int64)),
            "train.schedule plateau looks at the validation split, which is empty",
        ),
        (
            [],
            of_label(1, "train"),
            r"the train split: all \d+ labels are 1; there is nothing to learn. Give it samples",
        ),
        ([], of_label(0, "train"), r"the train split: all \d+ labels are 0; there is nothing to learn"),
        ([], of_label(0, "validation"), r"the validation split: all \d+ labels are 0; AUC is not defined there"),
        (
            [],
            of_label(1, "test"),
            r"the test split: all \d+ labels are 1; AUC is not defined there. .* leave the split e",
        ),
        (
            [],
            infinity_in("user", "size"),
            "numeric user feature 'size': 1 of 10 values are not finite, the first inf in row 3; allowed: finite",
        ),
        ([], infinity_in("context", "present"), "numeric context feature 'present': 1 of"),
        (
            ["train.monitor=gauc"],
            lambda d: with_split(d, "validation", d.split("validation")[first_of_each_user(d)]),
            "train.monitor is 'gauc', which has no value on this validation split: no user of it has both labels",
        ),
        (["train.decay=2"], lambda d: d, "train.decay is 2.0; allowed: 0 to 1"),
        (["train.patience=-1"], lambda d: d, "train.patience is -1; allowed: 0 or more"),
        (["train.schedule=cosin"], lambda d: d, r"train.schedule is 'cosin': did you mean 'cosine'\?"),
        (["train.monitor=ndcg"], lambda d: d, "train.monitor is 'ndcg'"),
    ],
)
def test_what_cannot_be_trained_or_measured_is_refused_before_the_first_step(
    changes: list[str], change: Callable[[Dataset], Dataset], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(override(odd_config(), changes), change(dataset), tmp_path / "run")
    assert not (tmp_path / "run").exists()
