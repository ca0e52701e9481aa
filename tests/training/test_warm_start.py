"""Runs that begin with the rows and layers of an older one, and runs on the newest samples only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_retrieval import write_tiny_retrieval
from support.tiny_run import CONFIG, NAMESAKES, finished, odd_config, odd_dataset, tiny_dataset
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.graph import graph_rows
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.embeddings.sharding.shard import optimizer_state, table_weights
from recsys.errors import ConfigError, InvalidInputError
from recsys.models.ranking.dcn import DcnConfig
from recsys.training.config import RunConfig
from recsys.training.loop import train
from recsys.training.reports import RunResult
from recsys.training.settings import override
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import TrainedModel, build, load_run
from recsys.training.warm_start.apply import WarmStart, matching_rows, start_warm
from recsys.training.warm_start.incremental import grown_row_maps, ids_without_room, samples_since
from recsys.training.warm_start.source import open_source

STILL = ["tables.learning_rate=0", "tables.regularization=0", "train.learning_rate=0", "train.epochs=1"]
"""A run that changes nothing: what it ends with is what it began with."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return odd_dataset(NAMESAKES, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def old(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A run in the folder ``old_folder``; ids seen ten times have a row."""
    folder = tmp_path_factory.mktemp("old") / "run"
    train(override(odd_config(), ["rows.min_count=10"]), dataset, folder)
    return load_run(folder)


@pytest.fixture(scope="module")
def old_folder(old: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("old*/run"))


def warm(config: RunConfig, dataset: Dataset, source: Path, folder: Path, *changes: str) -> tuple[RunResult, WarmStart]:
    started: list[WarmStart] = []
    config = override(config, [*STILL, f'train.warm_start="{source}"', *changes])
    result = train(config, dataset, folder, show_start=started.append)
    return result, started[0]


def vectors(trained: TrainedModel, table: str, ids: Int64Array) -> Tensor:
    rows = trained.row_maps[table].lookup(ids)[:, 0]
    return table_weights(trained.model)[table][torch.from_numpy(rows)].clone()


def known(trained: TrainedModel, table: str) -> Int64Array:
    ids = trained.row_maps[table].ids
    assert ids is not None
    return ids.entries()[0]


def test_after_the_vocabulary_changed_every_id_keeps_its_row(
    old: TrainedModel, old_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    result, start = warm(odd_config(), dataset, old_folder, tmp_path / "run", "rows.min_count=13")
    new = result.trained
    told = {each.table: each for each in start.tables}
    moved = 0
    for table in old.row_maps:
        both = np.intersect1d(known(old, table), known(new, table))
        assert torch.equal(vectors(new, table, both), vectors(old, table, both)), table
        moved += int((old.row_maps[table].lookup(both) != new.row_maps[table].lookup(both)).sum())
        assert told[table].taken == len(both) + 1  # and the row of unknown ids
        assert told[table].new_ids == 0
        assert told[table].dropped_ids == len(known(old, table)) - len(both)
    assert sum(each.dropped_ids for each in start.tables) > 0
    for name, value in old.model.module.net.state_dict().items():
        if "norm" not in name:  # Dice's statistics moved on
            assert torch.equal(new.model.module.net.state_dict()[name], value), name
    assert start.layers_fresh == () and start.other_kind is None and start.with_optimizer
    rows = sum(each.taken for each in start.tables)
    assert str(start).startswith(f"warm start from run: {rows} rows taken, 0 ids are new, ")


def test_new_ids_and_wider_tables_begin_anew(
    old: TrainedModel, old_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    result, start = warm(odd_config(), dataset, old_folder, tmp_path / "run", "rows.min_count=1", "tables.dims.type=12")
    told = {each.table: each for each in start.tables}
    assert told["type"].fresh == "its width is 12, not 4" and told["type"].taken == 0
    assert told["user"].new_ids == len(known(result.trained, "user")) - len(known(old, "user"))
    both = known(old, "user")
    assert torch.equal(vectors(result.trained, "user", both), vectors(old, "user", both))
    assert "head.0" in start.layers_fresh and "attention.first" in start.layers_taken
    assert "table type: its width is 12, not 4, begins anew" in str(start)


def test_from_another_kind_of_model_only_tables_are_taken(
    old: TrainedModel, old_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = replace(odd_config(), model=DcnConfig(head=(7,)))
    result, start = warm(config, dataset, old_folder, tmp_path / "run", "rows.min_count=10")
    assert start.other_kind == "din" and start.layers_taken == ()
    assert torch.equal(table_weights(result.trained.model)["user"], table_weights(old.model)["user"])
    assert "its network is of kind din: only tables are taken" in str(start)


def test_optimiser_state_comes_along_with_the_rows(old: TrainedModel, old_folder: Path, dataset: Dataset) -> None:
    def started(*changes: str) -> tuple[TrainedModel, torch.optim.Optimizer, WarmStart]:
        config = override(odd_config(), ["rows.min_count=10", *changes])
        trained = build(config, NAMESAKES, build_row_maps(config, dataset), device=torch.device("cpu"))
        optimizer = torch.optim.AdamW(trained.model.module.net.parameters(), lr=0.5)
        return trained, optimizer, start_warm(open_source(old_folder), trained, optimizer)

    trained, optimizer, start = started()
    source = open_source(old_folder)
    states = optimizer_state(trained.model)
    assert any(bool(state.any()) for state in states.values())
    for name, state in states.items():
        table, _, kind = name.removeprefix("table_").rpartition(".")
        assert torch.equal(state, source.rows(table, np.arange(len(state)), kind)), name
    assert start.steps_before == 10
    moments = optimizer.state_dict()["state"]
    assert moments and all(float(each["step"]) == 10 for each in moments.values())
    assert optimizer.param_groups[0]["lr"] == 0.5
    _, _, start = started("tables.optimizer=adagrad")
    assert not start.with_optimizer and start.steps_before == 0 and "optimiser state new" in str(start)


def test_what_does_not_fit_at_all_is_refused_and_leaves_no_run(
    old_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="warm_start run: nothing of it fits: no table has ids, name and width of on"):
        warm(CONFIG, tiny_dataset(), old_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"nowhere: neither a run's folder \(config.json\) nor a bundle \(manifest"):
        warm(odd_config(), dataset, tmp_path / "nowhere", tmp_path / "run")
    write_tiny_retrieval(tmp_path / "finder")
    with pytest.raises(ConfigError, match="finder: a retrieval bundle; expected a run or a ranking bundle"):
        warm(odd_config(), dataset, tmp_path / "finder", tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_warm_run_killed_before_its_first_checkpoint_starts_warm_again(
    old: TrainedModel, old_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = override(odd_config(), [*STILL, f'train.warm_start="{old_folder}"', "rows.min_count=10"])
    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, tmp_path / "run", report=lambda progress: (_ for _ in ()).throw(KeyboardInterrupt))
    result = train(config, dataset, tmp_path / "run", resume=True)
    assert torch.equal(table_weights(result.trained.model)["user"], table_weights(old.model)["user"])


def test_the_same_clusters_begin_with_the_same_rows(dataset: Dataset, tmp_path: Path) -> None:
    config = override(odd_config(), ["rows.maps.user=graph", "rows.budget=0.7", "train.epochs=1"])
    result = train(config, dataset, tmp_path / "old")
    again, _ = warm(config, dataset, tmp_path / "old", tmp_path / "new")
    assert torch.equal(table_weights(again.trained.model)["user"], table_weights(result.trained.model)["user"])


def test_a_row_of_several_ids_begins_as_the_mean_of_theirs_and_hashes_match_only_themselves() -> None:
    ids = np.array([3, 5, 7])
    before = vocabulary("item", ids, np.array([9, 8, 7]))  # rows 1, 2, 3
    clusters = graph_rows("item", ids, np.array([0, 0, 1]), unseen_rows=0, spare_ids=0, double=False, seed=0)
    new, old = matching_rows(before, clusters, lookup=0)
    shared = int(clusters.lookup(ids)[0, 0])
    assert sorted(old[new == shared].tolist()) == [1, 2]
    same, other = hash_rows("item", rows=9, seed=1), hash_rows("item", rows=9, seed=2)
    assert [len(rows) for rows in matching_rows(same, hash_rows("item", rows=9, seed=1), lookup=0)] == [9, 9]
    assert [rows.tolist() for rows in matching_rows(same, other, lookup=0)] == [[0], [0]]


def later_samples(dataset: Dataset, share: float) -> tuple[Dataset, int]:
    """The dataset without the newest part of its training samples, and when that part begins."""
    training = dataset.split("train")
    times_ms = dataset.sample_time_ms[training]
    first_ms = int(np.quantile(times_ms, 1 - share))
    splits = {**dataset.samples.splits, "train": training[times_ms < first_ms]}
    return replace(dataset, samples=replace(dataset.samples, splits=splits)), first_ms


def test_training_on_the_last_tenth_comes_close_to_training_anew(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    older, first_ms = later_samples(dataset, 0.1)
    yesterday = train(override(CONFIG, ["rows.min_count=5"]), older, tmp_path / "yesterday")
    since = np.datetime64(first_ms, "ms").astype(str)
    config = override(
        CONFIG, [f'data.since="{since}"', f'train.warm_start="{tmp_path / "yesterday"}"', "train.epochs=1"]
    )
    steps: list[int] = []
    started: list[WarmStart] = []
    today = train(
        config, dataset, tmp_path / "today", report=lambda p: steps.append(p.steps), show_start=started.append
    )
    anew = finished().result
    assert today.test is not None and anew.test is not None and yesterday.test is not None
    assert steps[0] == -(-len(samples_since(dataset, since).split("train")) // 128) < 10
    assert today.test.auc > anew.test.auc - 0.01
    assert today.test.log_loss < min(anew.test.log_loss + 0.01, yesterday.test.log_loss)
    # Every id that had a row has one; ids seen twice since have one too.
    for table, row_map in today.trained.row_maps.items():
        before = yesterday.trained.row_maps[table].ids
        ids, counts = id_counts(samples_since(dataset, since), samples_since(dataset, since).split("train"))[table]
        assert before is not None
        wanted = np.union1d(before.entries()[0], ids[counts >= 2])
        assert (row_map.lookup(wanted) > 0).all(), table
    assert sum(each.dropped_ids for each in started[0].tables) == 0
    loaded = load_run(tmp_path / "today")
    assert loaded.data_fingerprint == anew.trained.data_fingerprint  # so that it is evaluated and exported on all data


def test_new_ids_that_find_no_row_are_counted_and_told(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    older, first_ms = later_samples(dataset, 0.1)
    # Half of the movies were not there before: of their ids the older run knows nothing.
    early = older.split("train")
    kept = early[older.sample_item[early] % 2 == 0]
    yesterday = replace(older, samples=replace(older.samples, splits={**older.samples.splits, "train": kept}))
    since = np.datetime64(first_ms, "ms").astype(str)
    newer = samples_since(dataset, since)
    ids, counts = id_counts(newer, newer.split("train"))["movie_id"]
    for kind, admits in (("vocabulary", True), ("frequency", False)):
        config = override(CONFIG, [f"rows.maps.movie_id={kind}", "rows.rows.movie_id=9", "rows.min_count=3"])
        if kind == "vocabulary":
            config = override(CONFIG, ["rows.min_count=3"])
        row_maps = grown_row_maps(config, build_row_maps(config, yesterday), newer)
        known = row_maps["movie_id"].ids
        assert known is not None
        lacking = int((~np.isin(ids[counts >= 3], known.entries()[0])).sum())
        told = [line for line in ids_without_room(config, row_maps, newer) if line.startswith("table movie_id:")]
        assert (lacking == 0) == admits
        found = [line for line in told if "found no row of their own" in line]
        assert [line.split()[2] for line in found] == ([] if admits else [str(lacking)])
        assert all("`recsys rows grow --evict rarest` makes room" in line for line in found)


def test_since_takes_a_time_or_a_duration_before_the_newest_sample(dataset: Dataset) -> None:
    training = dataset.split("train")
    times_ms = dataset.sample_time_ms[training]  # 0 to 99
    assert set(samples_since(dataset, "0.02s").split("train")) == set(training[times_ms >= times_ms.max() - 20])
    newest = samples_since(dataset, "1970-01-01T00:00:00.090")
    assert set(newest.split("train")) == set(training[times_ms >= 90])
    assert newest.split("test").tolist() == dataset.split("test").tolist()
    none = np.zeros(0, dtype=np.int64)
    only = replace(
        dataset, samples=replace(dataset.samples, splits={"train": training, "validation": none, "test": none})
    )
    parted = samples_since(only, "1d")
    trained_ms, held_ms = (dataset.sample_time_ms[parted.split(name)] for name in ("train", "validation"))
    assert sorted([*trained_ms, *held_ms]) == sorted(times_ms)
    # Moments hold up to two events: a moment is in one part, so the newest tenth may be one less.
    assert trained_ms.max() < held_ms.min() and len(training) // 10 - 1 <= len(held_ms) <= len(training) // 10


def test_since_holds_nothing_out_that_could_not_be_measured(dataset: Dataset) -> None:
    none, newest = np.zeros(0, dtype=np.int64), np.argsort(dataset.sample_time_ms)[-20:]

    def held_out(label: np.ndarray, times_ms: np.ndarray) -> tuple[int, int]:
        samples = replace(
            dataset.samples, label=label.astype(np.uint8), splits={"train": newest, "validation": none, "test": none}
        )
        parted = samples_since(replace(dataset, samples=samples, sample_time_ms=times_ms), "1d")
        return len(parted.split("train")), len(parted.split("validation"))

    mixed, in_order = np.arange(len(dataset)) % 2, np.empty(len(dataset), dtype=np.int64)
    mixed[newest[-2:]] = [0, 1]
    in_order[newest] = np.arange(20)
    assert held_out(mixed, in_order) == (18, 2)
    assert held_out(np.zeros(len(dataset)), in_order) == (20, 0)  # of one label
    assert held_out(mixed, np.zeros(len(dataset), dtype=np.int64)) == (20, 0)  # of one moment


@pytest.mark.parametrize(
    ("since", "message"),
    [
        (
            "2001-01-01",
            "data.since 2001-01-01: none of the 150 training samples is as new as 2001-01-01T00:00:00.00:00, ",
        ),
        ("yesterday", "data.since is 'yesterday'; allowed: a time such as .*, or a duration such as 36h or 1d before"),
    ],
)
def test_nothing_to_train_on_since_then_is_refused(since: str, message: str, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(override(odd_config(), [f"data.since={since}"]), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
