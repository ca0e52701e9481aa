"""A run whose settings cannot do what they are for says so by name, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError
from recsys.training.config import RunConfig
from recsys.training.loop import train
from recsys.training.notices import notices
from recsys.training.settings import override
from recsys.training.tables.plan import build_row_maps
from recsys.training.validate_dataset import validate_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("notices"))


def said(config: RunConfig, dataset: Dataset, *, steps_per_epoch: int) -> str:
    return "\n".join(notices(config, dataset, build_row_maps(config, dataset), steps_per_epoch=steps_per_epoch))


def test_a_warm_up_longer_than_the_run_is_cut_said_and_recorded_and_the_run_learns(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = override(odd_config(), ["train.warmup_steps=100"])
    shown: list[str] = []
    rates: list[float] = []
    result = train(
        config,
        dataset,
        tmp_path / "run",
        report=lambda p: rates.append(p.rate),
        show_notes=shown.extend,
    )
    cut = "train.warmup_steps is 100, and the run takes 10 steps: the warm-up is cut to 3, at most a third of the run"
    assert cut in shown and tuple(shown) == result.notes
    assert cut in json.loads((tmp_path / "run" / "record.json").read_text())["notes"]
    assert max(rates) == config.train.learning_rate


def test_a_long_enough_run_says_nothing(dataset: Dataset) -> None:
    assert said(odd_config(), dataset, steps_per_epoch=50) == ""


@pytest.mark.parametrize(
    ("changes", "steps_per_epoch", "message"),
    [
        (["train.batch_size=1000"], 1, "the run takes 2 steps: 150 training samples in batches of 1,000, 2 times."),
        (["train.epochs=1", "train.batch_size=1000"], 1, "the run takes 1 step: 150 training samples"),
        (["train.patience=3", "train.evaluate_every=1000"], 50, "train.patience 3 has nothing to choose among"),
        (["train.patience=3", "train.epochs=1"], 100, "give train.evaluate_every, at most 50, or more than one"),
        (["train.schedule=plateau", "train.evaluate_every=100"], 50, "train.schedule plateau has nothing to choose"),
        (["train.learning_rate=0", "tables.learning_rate=0"], 50, "are both 0: no step will change anything"),
        (["rows.min_count=1000"], 50, "table user: no id was seen rows.min_count=1000 times in training"),
    ],
)
def test_settings_that_cannot_do_what_they_are_for_are_named(
    changes: list[str], steps_per_epoch: int, message: str, dataset: Dataset
) -> None:
    assert message in said(override(odd_config(), changes), dataset, steps_per_epoch=steps_per_epoch)


def test_rows_that_unknown_ids_hash_to_are_no_single_row(dataset: Dataset) -> None:
    config = override(odd_config(), ["rows.min_count=1000", "rows.unknown_rows=4"])
    assert said(config, dataset, steps_per_epoch=50) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.schedule=step", "train.decay=0"], "train.decay is 0 with train.schedule step: the rates would be 0"),
        (["train.schedule=plateau", "train.decay=0"], "after the first evaluation without an improvement"),
        (["train.patience=2", "train.min_delta=1"], "train.min_delta is 1, and train.monitor auc is at most 1"),
    ],
)
def test_settings_with_which_nothing_could_be_learnt_are_refused(
    changes: list[str], message: str, dataset: Dataset
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_dataset(override(odd_config(), changes), dataset)


@pytest.mark.parametrize(
    "changes",
    [
        ["train.schedule=step", "train.decay=0", "train.decay_epochs=2"],
        ["train.patience=2", "train.min_delta=1", "train.monitor=log_loss"],
    ],
)
def test_settings_that_leave_something_to_learn_are_not(changes: list[str], dataset: Dataset) -> None:
    validate_dataset(override(odd_config(), changes), dataset)
    assert np.unique(dataset.samples.label).tolist() == [0, 1]
