"""What a run learns, writes and refuses."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_run import NAMESAKES, finished, odd_config, odd_dataset
from torch import Tensor

import recsys.training.loop as loop
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.ids import map_ids, rows_of_codes
from recsys.data.samples.loader import BatchLoader
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.sharding.shard import table_weights
from recsys.embeddings.tables import input_tables
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.evaluation.evaluate import evaluate, predict
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING
from recsys.metrics import auc, gauc, log_loss
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.training.config import RunConfig, TrainConfig
from recsys.training.loop import train
from recsys.training.reports import TrainingProgress
from recsys.training.schedules import rate_factor, warmup_of
from recsys.training.settings import from_json, override
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import build, evaluate_run, load_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


def tables_after(config: RunConfig, dataset: Dataset, folder: Path) -> dict[str, Tensor]:
    return {t: w.clone() for t, w in table_weights(train(config, dataset, folder).trained.model).items()}


def first_step(config: RunConfig, dataset: Dataset, folder: Path) -> dict[str, Tensor]:
    """The tables after one step."""

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    config = replace(config, train=replace(config.train, checkpoint_steps=1))
    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, folder, report=stop)
    return {t: w.clone() for t, w in table_weights(load_run(folder).model).items()}


def test_it_ranks_clearly_better_than_popularity() -> None:
    done = finished()
    data, samples = done.dataset, done.dataset.samples
    train_split, test = data.split("train"), data.split("test")
    items = len(data.table.item_keys)
    seen = np.bincount(data.sample_item[train_split], minlength=items)
    liked = np.bincount(data.sample_item[train_split], weights=samples.label[train_split], minlength=items)
    popularity = auc(samples.label[test], ((liked + 1) / (seen + 2))[data.sample_item[test]])
    assert done.result.test is not None
    assert done.result.test.auc > popularity + 0.08


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(dataset: Dataset, tmp_path: Path) -> None:
    config = odd_config()
    first, second = (train(config, dataset, tmp_path / name) for name in ("a", "b"))
    other = train(override(config, ["train.seed=7"]), dataset, tmp_path / "c")
    assert (first.validation, first.test) == (second.validation, second.test)
    assert first.test != other.test


def test_the_run_folder_describes_the_run(tmp_path: Path) -> None:
    done = finished()
    assert from_json(RunConfig, (done.folder / "config.json").read_text()) == done.result.trained.config
    assert FeatureSet.from_json((done.folder / "features.json").read_text()) == done.dataset.table.features
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert done.result.test is not None and done.result.validation is not None
    assert metrics["test"] == vars(done.result.test)
    assert metrics["validation"] == vars(done.result.validation)
    assert metrics["samples_per_s"] == round(done.result.samples_per_s) > 0


def test_a_loaded_run_predicts_what_the_trained_model_does() -> None:
    done = finished()
    loaded = load_run(done.folder)
    assert loaded.config == done.result.trained.config
    assert evaluate_run(loaded, done.dataset, "test") == done.result.test
    assert not loaded.model.training and not done.result.trained.model.training


def test_metrics_are_those_of_the_predictions() -> None:
    done = finished()
    trained = done.result.trained
    mapped = map_ids(done.dataset, {name: m.lookup for name, m in trained.row_maps.items()})
    chosen = done.dataset.split("test")[::-1][:50]
    trained.model.train()
    logits = predict(trained.model, mapped, chosen, convert=trained.convert, device=trained.device)
    assert trained.model.training  # as before
    trained.model.eval()
    for position in (0, 17):
        batch = trained.convert(make_batch(mapped, chosen[position : position + 1]), rows_of_codes(mapped))
        assert trained.model(batch)[0].item() == pytest.approx(logits[position], abs=1e-5)
    got = evaluate(done.dataset, chosen, logits)
    labels = done.dataset.samples.label[chosen]
    assert got.auc == auc(labels, logits)
    assert got.gauc == gauc(labels, logits, done.dataset.sample_user[chosen])
    assert got.log_loss == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits.astype(np.float64)))))
    assert (got.samples, got.positives) == (50, labels.sum())
    assert str(got).startswith(f"AUC {got.auc:.4f}   GAUC {got.gauc:.4f}   log loss")


def test_progress_counts_steps_and_ends_every_epoch_with_its_validation(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    result = train(odd_config(), dataset, tmp_path / "run", report=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert [p.epoch for p in seen if p.validation is None] == [0] * 5 + [1] * 5
    assert {p.steps for p in seen} == {10}
    assert [p.validation is not None for p in seen].count(True) == 2
    assert seen[-1].validation == result.validation
    assert all(math.isfinite(p.loss) and p.samples_per_s > 0 for p in seen)


def test_without_validation_and_test_samples_there_are_no_metrics(dataset: Dataset, tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int64)
    only_train = {"train": dataset.split("train"), "validation": none, "test": none}
    result = train(
        odd_config(), replace(dataset, samples=replace(dataset.samples, splits=only_train)), tmp_path / "run"
    )
    assert result.validation is None and result.test is None
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())) == {"samples_per_s"}


@pytest.mark.parametrize("kind", ["din", "sdim"])
def test_samples_without_any_history_are_trained_and_ranked(kind: str, tmp_path: Path) -> None:
    dataset = odd_dataset(NAMESAKES, tmp_path)
    first = np.flatnonzero(dataset.history_begin == dataset.history_end)  # of each user the first moment
    assert len(first) >= 10
    label = dataset.samples.label.copy()
    label[first] = np.arange(len(first)) % 2
    samples = replace(dataset.samples, label=label, splits=dict.fromkeys(dataset.samples.splits, first))
    result = train(override(odd_config(), [f"model.kind={kind}"]), replace(dataset, samples=samples), tmp_path / "run")
    assert result.test is not None and result.test.samples == len(first)


def test_the_rates_rise_linearly_and_fall_along_half_a_cosine() -> None:
    config = TrainConfig(warmup_steps=4)
    assert [rate_factor(config, step=step, steps=20) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for step in range(4, 20):
        expected = (1 + math.cos(math.pi * (step - 4) / 16)) / 2
        assert rate_factor(config, step=step, steps=20) == pytest.approx(expected)
    assert rate_factor(config, step=12, steps=20) == pytest.approx(0.5)
    assert rate_factor(config, step=20, steps=20) == pytest.approx(0.0)
    assert rate_factor(TrainConfig(warmup_steps=0), step=0, steps=1) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40, 299, 300, 301])
def test_a_warm_up_takes_at_most_a_third_of_the_run_so_that_the_rates_are_reached(steps: int) -> None:
    config = TrainConfig(warmup_steps=100, schedule="constant")
    factors = [rate_factor(config, step=step, steps=steps) for step in range(steps)]
    assert sum(factor < 1 for factor in factors) <= steps / 3 and factors[-1] == 1.0
    assert warmup_of(config, steps=steps) == min(100, steps // 3)


def test_the_schedule_governs_tables_and_network(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "rate_factor", lambda config, *, step, **_: 1.0 if step == 0 else 0.0)
    config = override(odd_config(), ["tables.optimizer=sgd"])
    one = first_step(config, dataset, tmp_path / "one")
    network_after_one = load_run(tmp_path / "one").model.module.net.state_dict()
    result = train(config, dataset, tmp_path / "all")
    for table, weight in table_weights(result.trained.model).items():
        assert torch.equal(weight, one[table]), table
    for name, parameter in result.trained.model.module.net.named_parameters():
        assert torch.equal(parameter, network_after_one[name]), name
    still = tables_after(override(config, ["tables.learning_rate=0"]), dataset, tmp_path / "still")
    assert not torch.equal(still["item_id"], one["item_id"])


def test_regularisation_pulls_each_row_of_the_batch_by_lambda_over_its_count(dataset: Dataset, tmp_path: Path) -> None:
    # Zhou et al., KDD 2018, equation 6. With plain SGD of rate 1 the pull is the difference between two first steps.
    strength = 0.7
    plain = override(odd_config(), ["tables.optimizer=sgd", "tables.learning_rate=1", "train.warmup_steps=0"])
    plain = override(plain, ["tables.regularization=0", "rows.min_count=12", "train.learning_rate=0"])
    start = tables_after(override(plain, ["tables.learning_rate=0"]), dataset, tmp_path / "start")
    without = first_step(plain, dataset, tmp_path / "without")
    with_pull = first_step(override(plain, [f"tables.regularization={strength}"]), dataset, tmp_path / "with")

    row_maps = build_row_maps(plain, dataset)
    mapped = map_ids(dataset, {name: m.lookup for name, m in row_maps.items()})
    tables = input_tables(NAMESAKES)
    counts: dict[str, Counter[int]] = {table: Counter() for table in row_maps}
    in_batch: dict[str, set[int]] = {table: set() for table in row_maps}
    for index in dataset.split("train"):
        for table, rows in rows_of(mapped, np.array([index]), tables):
            counts[table].update(r for r in rows if r != MISSING)
    loader = BatchLoader(mapped, dataset.split("train"), batch_size=30, seed=plain.train.seed)
    order = np.random.Generator(np.random.PCG64([plain.train.seed, 0])).permutation(dataset.split("train"))
    assert next(iter(loader)).labels.tolist() == dataset.samples.label[order[:30]].tolist()
    for table, rows in rows_of(mapped, order[:30], tables):
        in_batch[table].update(rows)

    untouched = 0
    for table, weight in start.items():
        for row in range(len(weight)):
            pull = with_pull[table][row] - without[table][row]
            if row in in_batch[table] and counts[table][row]:
                expected = -strength / counts[table][row] * weight[row]
            else:
                expected, untouched = torch.zeros_like(weight[row]), untouched + 1
            torch.testing.assert_close(pull, expected, atol=1e-6, rtol=1e-4, msg=f"{table}[{row}]")
    assert untouched
    assert counts["user"][0] and counts["user"][1]  # rare users share row 0; frequent ones have their own


def rows_of(mapped: Dataset, indices: np.ndarray, tables: dict[str, str]) -> list[tuple[str, list[int]]]:
    batch = make_batch(mapped, indices)
    named = {**batch.user, **{f"item.{n}": c for n, c in batch.item.items()}, **batch.history}
    found = []
    for name, column in named.items():
        if name in tables:
            rows = rows_of_codes(mapped)[tables[name]][column.reshape(-1), 0]  # a vocabulary has one lookup
            found.append((tables[name], np.where(column.reshape(-1) == MISSING, MISSING, rows).tolist()))
    return found


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(dataset: Dataset, tmp_path: Path) -> None:
    config = override(odd_config(), ["tables.optimizer=sgd", "tables.learning_rate=1e38", "train.checkpoint_steps=1"])
    with pytest.raises(InvalidInputError, match=r"step \d+: the loss is (nan|inf); lower the learning rates"):
        train(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_folder_that_holds_a_run_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    train(odd_config(), dataset, tmp_path / "run")
    advice = "go on with it (--resume), or choose another folder: --run-dir runs/NAME"
    message = f"{tmp_path / 'run'} holds a run already: {advice}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(odd_config(), dataset, tmp_path / "run")


def test_nothing_to_train_on_is_refused_and_leaves_no_folder(dataset: Dataset, tmp_path: Path) -> None:
    empty = {**dataset.samples.splits, "train": np.zeros(0, dtype=np.int64)}
    with pytest.raises(InvalidInputError, match="the train split is empty: there is nothing to train on"):
        train(odd_config(), replace(dataset, samples=replace(dataset.samples, splits=empty)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_width_for_a_table_that_is_not_there_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    config = override(odd_config(), ["tables.dims.usr=8"])
    with pytest.raises(ConfigError, match=r"tables.dims names no table 'usr': did you mean 'user'\?"):
        train(config, dataset, tmp_path / "run")


def damage(change: Callable[[Path], None], tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in finished().folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing; `recsys train` writes a run"),
        (lambda f: (f / "features.json").unlink(), r"features\.json is missing; `recsys train` writes a run"),
        (lambda f: (f / "data.json").unlink(), r"data\.json is missing; `recsys train` writes a run"),
        (lambda f: (f / "data.json").write_text("[]"), r"data\.json: expected an object with a text 'fingerprint'"),
        (lambda f: (f / "row_maps.npz").unlink(), r"row_maps\.npz: not readable as row maps: "),
        (lambda f: (f / "checkpoint.pt").unlink(), r"checkpoint\.pt: no checkpoint; `recsys train` writes one"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not a run configuration: "),
        (lambda f: (f / "features.json").write_text("{"), "not a FeatureSet in JSON: "),
        (lambda f: (f / "row_maps.npz").write_bytes(b""), r"row_maps\.npz: not readable as row maps: "),
        (lambda f: (f / "row_maps.npz").write_bytes(b"PK\3\4"), r"row_maps\.npz: not readable as row maps: "),
        (lambda f: (f / "checkpoint.pt").write_bytes(b"\0" * 99), r"checkpoint\.pt: not a readable checkpoint: "),
    ],
)
def test_a_damaged_run_is_refused_naming_the_file(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=message):
        load_run(damage(change, tmp_path))


def other_splits(dataset: Dataset) -> Dataset:
    splits = {**dataset.samples.splits, "test": dataset.split("test")[1:]}
    return replace(dataset, samples=replace(dataset.samples, splits=splits))


def test_a_run_is_not_evaluated_on_other_data_than_its_own() -> None:
    loaded = load_run(finished().folder)
    assert loaded.data_fingerprint == finished().result.trained.data_fingerprint is not None
    with pytest.raises(ConfigError, match=r"the model was trained on other data: .* give the log .* with --data"):
        evaluate_run(loaded, other_splits(finished().dataset), "test")


def test_the_fingerprint_changes_with_all_that_a_run_depends_on(dataset: Dataset, tmp_path: Path) -> None:
    known = data_fingerprint(dataset)
    assert data_fingerprint(odd_dataset(NAMESAKES, tmp_path)) == known  # wherever it lies
    lookups = {table: (lambda keys: keys[:, None] % 3) for table in dataset.table.features.tables()}
    assert data_fingerprint(map_ids(dataset, lookups)) == known
    table, samples = dataset.table, dataset.samples
    others = [
        other_splits(dataset),
        replace(dataset, samples=replace(samples, label=1 - samples.label)),
        replace(dataset, table=replace(table, timestamp_ms=table.timestamp_ms + 1)),
        replace(dataset, table=replace(table, users={**table.users, "size": table.users["size"] + 1})),
        replace(dataset, table=replace(table, items={**table.items, "item_id": table.item_keys[::-1]})),
        replace(dataset, table=replace(table, attributes={"action": table.attributes["action"][::-1]})),
    ]
    assert len({known, *(data_fingerprint(other) for other in others)}) == len(others) + 1


def test_gauc_without_a_user_who_has_both_labels_is_null(dataset: Dataset, tmp_path: Path) -> None:
    one_each = np.unique(dataset.sample_user, return_index=True)[1]
    samples = replace(dataset.samples, splits={**dataset.samples.splits, "test": one_each})
    result = train(odd_config(), replace(dataset, samples=samples), tmp_path / "run")
    assert result.test is not None and result.test.gauc is None
    assert "GAUC none" in str(result.test)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["test"]["gauc"] is None


def test_a_configuration_that_its_data_refuses_leaves_no_run(dataset: Dataset, tmp_path: Path) -> None:
    config = odd_config()
    for refused in ("rows.maps.nobody=hash", "tables.dims.nobody=8"):
        with pytest.raises(ConfigError, match="names no table 'nobody'"):
            train(override(config, [refused]), dataset, tmp_path / "run")
        assert not list((tmp_path / "run").glob("*"))
    train(override(config, ["train.epochs=1"]), dataset, tmp_path / "run")  # the corrected one is not in its way


def test_a_run_folder_that_cannot_be_made_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be written: Not a directory; choose another folder"):
        train(odd_config(), dataset, tmp_path / "file" / "run")


def test_a_model_that_reads_a_history_is_refused_where_none_is_declared() -> None:
    trained = finished().result.trained
    bare = replace(trained.features, history=None)
    row_maps = {table: trained.row_maps[table] for table in bare.tables()}
    with pytest.raises(ConfigError, match="model 'din' reads a history, but 'movielens_1m' declares none"):
        build(trained.config, bare, row_maps, device=torch.device("cpu"))
    of_history = replace(trained.config, model=AutoIntConfig(history="mean"))
    with pytest.raises(ConfigError, match="model 'autoint' reads a history, but 'movielens_1m' declares none"):
        build(of_history, bare, row_maps, device=torch.device("cpu"))


def test_autoint_refuses_tables_of_two_widths_by_their_widths() -> None:
    trained = finished().result.trained
    config = replace(trained.config, model=AutoIntConfig())
    with pytest.raises(ConfigError, match=r"vectors of widths 4, 8; allowed: one width .* so leave tables\.dims empty"):
        build(config, trained.features, trained.row_maps, device=torch.device("cpu"))


@pytest.mark.parametrize("change", ["missing", "another"])
def test_row_maps_of_another_feature_set_are_refused(change: str) -> None:
    trained = finished().result.trained
    row_maps = dict(trained.row_maps)
    if change == "missing":
        del row_maps["age"]
        message = "the row maps lack table 'age' of 'movielens_1m'; they are of other features"
    else:
        row_maps["shop"] = hash_rows("shop", rows=5)
        message = "the row maps have a table 'shop' that 'movielens_1m' does not have"
    with pytest.raises(ConfigError, match=message):
        build(trained.config, trained.features, row_maps, device=torch.device("cpu"))


def test_every_file_of_a_run_is_whole_or_absent(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = os.replace

    def noted(source: Path, target: Path) -> None:
        written.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", noted)
    train(odd_config(), dataset, tmp_path / "run")
    assert {file.name for file in (tmp_path / "run").iterdir()} == set(written)
    assert written[:3] == ["features.json", "data.json", "config.json"]  # config.json says: a run is here
    assert written[-1] == "metrics.json"
