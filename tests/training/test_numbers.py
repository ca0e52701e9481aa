"""Statistics of numeric features: of the training samples alone, kept by a run's folder, a bundle and a warm start."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command_line import recsys
from support.exported_models import exported
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.numbers import fit_numbers, training_numbers
from recsys.errors import DataFileError
from recsys.features.feature_set import Numeric
from recsys.features.number_transform import RAW, NumberTransform, fit_number
from recsys.models.ranking.dcn import DcnConfig
from recsys.training.loop import train
from recsys.training.run.folder import NUMBERS, load_numbers
from recsys.training.settings import override
from recsys.training.tables.growth.grow import GrowthOptions, grow_run
from recsys.training.trained import load_run, predict_run
from recsys.training.warm_start.apply import WarmStart
from recsys.training.warm_start.numbers import kept_numbers
from recsys.training.warm_start.source import open_source

NAMES = ["size", "present", "item.size"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(override(odd_config(), ["train.epochs=1"]), dataset, folder)
    return folder


def with_values(dataset: Dataset, name: str, values: np.ndarray) -> Dataset:
    """The data set with other values of a context feature, one for each event."""
    return replace(dataset, context={**dataset.context, name: values.astype(np.float32)})


def test_a_sample_counts_once_and_only_training_samples_do(dataset: Dataset) -> None:
    samples = dataset.split("train")
    by_hand = {
        "size": (NAMESAKES.user[1], dataset.user["size"][dataset.sample_user[samples]]),
        "present": (NAMESAKES.context[0], dataset.context["present"][dataset.context_row[samples]]),
        "item.size": (NAMESAKES.item[1], dataset.item["size"][dataset.sample_item[samples]]),
    }
    fitted = fit_numbers(dataset)
    for name, (feature, values) in by_hand.items():
        assert isinstance(feature, Numeric) and fitted[name] == fit_number(feature, values)
    assert list(fitted) == NAMES
    others = np.setdiff1d(np.arange(len(dataset.context["present"])), dataset.context_row[samples])
    assert len(others)
    spoilt = dataset.context["present"].copy()
    spoilt[others] = 1e9
    assert fit_numbers(with_values(dataset, "present", spoilt)) == fitted


def test_of_many_samples_some_spread_evenly_are_looked_at(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.data.samples.numbers.MOST_SAMPLES", 10)
    samples = dataset.split("train")
    assert fit_numbers(dataset)["present"].samples == 10
    ends = dataset.context["present"][dataset.context_row[samples[[0, -1]]]]
    found = fit_numbers(dataset)["present"]
    assert found.least <= ends.min() and found.most >= ends.max()


def test_training_tells_what_it_chose_and_the_folder_keeps_it(dataset: Dataset, tmp_path: Path) -> None:
    told: list[Mapping[str, NumberTransform]] = []
    config = override(odd_config(), ["train.epochs=1"])
    result = train(config, dataset, tmp_path / "run", show_numbers=told.append)
    assert told == [fit_numbers(dataset)] and [each.kind for each in told[0].values()] == [
        "standardise",
        "quantile",
        "signed_log",
    ]
    assert told[0]["size"].missing > 0
    again = load_run(tmp_path / "run")
    assert again.numbers == result.trained.numbers == told[0]
    predicted = [predict_run(trained, dataset, "test") for trained in (again, result.trained)]
    assert predicted[0] is not None and predicted[1] is not None
    assert np.array_equal(predicted[0].logit, predicted[1].logit)


def test_a_resumed_run_goes_on_with_the_folders_statistics(dataset: Dataset, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    values = json.loads((tmp_path / "run" / NUMBERS).read_text())
    values["size"]["centre"] = 0.25
    (tmp_path / "run" / NUMBERS).write_text(json.dumps(values))
    resumed = train(override(odd_config(), ["train.epochs=1"]), dataset, tmp_path / "run", resume=True)
    assert resumed.trained.numbers["size"].centre == 0.25


def test_a_run_from_before_there_were_transforms_reads_numbers_as_they_come(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / NUMBERS).unlink()
    trained = load_run(tmp_path / "run")
    numbers = {"size": torch.tensor([1e9]), "present": torch.tensor([-3.5])}
    assert trained.model.module.numbers("user", numbers).tolist() == [[1e9, -3.5]]
    assert open_source(tmp_path / "run").numbers == dict.fromkeys(NAMES, RAW)


@pytest.mark.parametrize("text", ["", "[]", '{"size": 1}', '{"size": {"kind": "none", "boundaries": [], "x": 1}}'])
def test_damaged_statistics_are_named(run: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / NUMBERS).write_text(text)
    with pytest.raises(DataFileError, match=r"numbers\.json: not readable as transforms of numbers"):
        load_numbers(tmp_path / NUMBERS)


def test_a_warm_start_keeps_the_older_models_statistics_and_says_so(
    dataset: Dataset, run: Path, tmp_path: Path
) -> None:
    moved = with_values(dataset, "present", dataset.context["present"] * 1000)
    older = load_run(run).numbers
    started: list[WarmStart] = []
    config = override(odd_config(), ["train.epochs=1", f'train.warm_start="{run}"'])
    kept = train(config, moved, tmp_path / "run", show_start=started.append).trained.numbers
    assert all(kept[name].reads_as(older[name]) for name in NAMES)
    assert (started[0].numbers_kept, started[0].numbers_fresh) == (tuple(NAMES), ())
    assert "statistics of numeric features kept: size, present, item.size; of the new samples: none" in str(started[0])
    other = replace(config, model=DcnConfig(head=(7,)))
    fresh = train(other, moved, tmp_path / "other", show_start=started.append).trained.numbers
    assert fresh == fit_numbers(moved) and started[1].numbers_fresh == ("present",), "no layer was taken"


def test_what_the_older_model_cannot_have_learnt_from_is_fitted_anew(dataset: Dataset) -> None:
    fitted = fit_numbers(dataset)
    constant = NumberTransform(kind="quantile", scale=0.0)
    wide = replace(fitted["size"], low=-0.1, high=0.1)
    kept = kept_numbers(training_numbers(dataset), {"present": constant, "size": wide})
    assert kept["present"] == fitted["present"], "it was constant"
    assert kept["item.size"] == fitted["item.size"], "it was not there"
    assert kept["size"].reads_as(wide) and "% of these samples are beyond its bounds" in kept["size"].why
    assert kept["size"].samples == fitted["size"].samples
    other_kind = kept_numbers(training_numbers(dataset), {"present": RAW})
    assert other_kind["present"] == fitted["present"], "another transform is declared now"


def test_a_bundle_carries_the_statistics_on(dataset: Dataset) -> None:
    trained, of_bundle, folder, manifest = exported("dcn, parallel")
    assert manifest.numbers == trained.numbers == fit_numbers(of_bundle)
    assert open_source(folder).numbers == trained.numbers


def test_a_grown_run_keeps_its_statistics(dataset: Dataset, run: Path, tmp_path: Path) -> None:
    grow_run(run, tmp_path / "grown", dataset, options=GrowthOptions(), trained_on=lambda: dataset)
    assert load_numbers(tmp_path / "grown" / NUMBERS) == load_numbers(run / NUMBERS) != {}


def test_features_show_prints_how_a_run_and_a_bundle_read_numbers(run: Path) -> None:
    for folder in (run, exported("dcn, parallel")[2]):
        shown = recsys("features", "show", str(folder), cwd=run).stdout
        assert "as the model reads numbers:" in shown
        rows = {
            line.split()[0]: line.split()[1] for line in shown.partition("numbers:")[2].splitlines() if line.split()
        }
        assert (rows["size"], rows["present"], rows["item.size"]) == ("standardise", "quantile", "signed_log")
