"""Runs of the two towers: what they learn, how they stop, resume and go on from another, what they refuse."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import planted
from support.walks import ALL_ITEMS, FEATURES, GROUP, ITEMS, USERS, walks

from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import compare_with_baselines, lists_of_run
from recsys.training.retrieval.loop import RetrievalProgress, RetrievalRunResult
from recsys.training.retrieval.run import train_any
from recsys.training.retrieval.two_tower.trained import load_two_tower
from recsys.training.settings import from_json, override, to_json

SMALL = override(
    RetrievalRunConfig(recipe="small"),
    [
        *("model.kind=two_tower", "model.dim=16", "model.attribute_dim=4", "model.layers=1", "model.dropout=0.1"),
        *("train.loss=softmax", "train.epochs=12", "train.batch_size=100", "train.learning_rate=0.02"),
        *("train.list_length=3", "train.validate_every=4", "train.sampled_items=20", "rows.min_count=1"),
    ],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Interactions, RetrievalRunResult]:
    """A finished run on walks."""
    folder, data = tmp_path_factory.mktemp("run") / "run", walks()
    return folder, data, train_any(SMALL, data, folder)


def test_the_next_item_is_told_by_the_newest_event(run: tuple[Path, Interactions, RetrievalRunResult]) -> None:
    folder, data, result = run
    baselines = {each.name: each.values["recall"] for each in result.baselines["test"]}
    assert result.test.recall > 0.85 and result.test.recall > 1.3 * baselines["linear"]
    metrics, _ = compare_with_baselines(folder, data, "test")
    assert metrics == result.test
    lists_Gk = lists_of_run(folder, data, np.unique(data.test.user_E), test=True)
    assert np.mean((lists_Gk == data.test.item_E[:, None]).any(axis=1)) == result.test.hit_rate


def test_the_window_is_the_models_however_few_events_ranking_models_read(tmp_path: Path) -> None:
    data = walks()
    assert data.ids is not None and FEATURES.history is not None
    features = dataclasses.replace(FEATURES, history=dataclasses.replace(FEATURES.history, recent=1))
    data = dataclasses.replace(data, ids=dataclasses.replace(data.ids, features=features))
    train_any(override(SMALL, ["train.epochs=1", "model.window=6"]), data, tmp_path / "run")
    _, learner = load_two_tower(tmp_path / "run", data)
    ((sequences, windows_B), _), *_ = learner.batches(torch.Generator().manual_seed(0))
    assert learner.window == 6 and (sequences.end_K - sequences.begin_K).max() > 1


def test_an_item_without_an_event_is_found_by_its_attributes(
    run: tuple[Path, Interactions, RetrievalRunResult],
) -> None:
    _, learner = load_two_tower(run[0], run[1])
    assert learner.known.items_M.all()
    rows_MD = learner.item_rows()
    like_MM = rows_MD[ITEMS:] @ rows_MD[:ITEMS].T
    nearest = like_MM.argmax(dim=1).numpy() // GROUP
    assert np.mean(nearest == np.arange(ALL_ITEMS - ITEMS)) > 0.8


def test_without_ids_being_dropped_an_item_without_an_event_is_in_no_list(tmp_path: Path) -> None:
    config = override(SMALL, ["model.id_dropout=0", "train.epochs=1", f"train.list_length={ALL_ITEMS}"])
    train_any(config, data := walks(), tmp_path / "run")
    lists_Gk = lists_of_run(tmp_path / "run", data, np.arange(USERS), test=True)
    assert lists_Gk.max() == ITEMS - 1 and (lists_Gk == -1).any()


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_last_digit(tmp_path: Path) -> None:
    data = walks()
    config = override(SMALL, ["train.epochs=4", "train.checkpoint_epochs=1", "train.patience=9"])
    whole = train_any(config, data, tmp_path / "whole")

    def kill(progress: RetrievalProgress) -> None:
        if progress.step == 20 and progress.validation is None:
            raise Killed

    with pytest.raises(Killed):
        train_any(config, data, tmp_path / "part", report=kill)
    resumed = train_any(config, data, tmp_path / "part", resume=True)
    assert resumed.test == whole.test and torch.equal(resumed.items_MD, whole.items_MD)
    other = train_any(override(config, ["train.seed=1"]), data, tmp_path / "other")
    assert not torch.equal(other.items_MD, whole.items_MD)


def test_a_run_goes_on_from_an_older_one(run: tuple[Path, Interactions, RetrievalRunResult], tmp_path: Path) -> None:
    config = override(SMALL, ["train.epochs=1", f"train.warm_start={run[0]}", "train.learning_rate=0.000001"])
    result = train_any(config, run[1], tmp_path / "next")
    assert any("warm start from run: rows of" in note for note in result.notes)
    assert abs(result.test.recall - run[2].test.recall) < 0.03
    assert torch.allclose(result.items_MD, run[2].items_MD, atol=1e-3)
    with pytest.raises(ConfigError, match=r"model.heads is 2, that of this run 4; allowed: the same"):
        train_any(override(config, ["model.heads=4"]), run[1], tmp_path / "other")
    moved = dataclasses.replace(walks().ids, item_keys_M=10_000 + np.arange(ALL_ITEMS))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="none of its 72 items is in the data of this run"):
        train_any(config, dataclasses.replace(walks(), ids=moved), tmp_path / "moved")


@pytest.mark.parametrize(
    ("rows", "seed", "kept"), [("vocabulary", 0, True), ("hash", 0, True), ("hash", 1, False)], ids=str
)
def test_an_item_without_events_in_the_new_log_keeps_its_row_or_is_not_known(
    rows: str, seed: int, kept: bool, tmp_path: Path
) -> None:
    data, gone = walks(), np.array([3, 17, 40])
    base = override(SMALL, [f"rows.map={rows}", "rows.budget=0.5", "model.id_dropout=0", "train.epochs=2"])
    before = train_any(base, data, tmp_path / "old").items_MD
    without = dataclasses.replace(
        data,
        train=data.train.where(~np.isin(data.train.item_E, gone)),
        validation=data.validation.where(~np.isin(data.validation.item_E, gone)),
        histories={part: each.where(~np.isin(each.item_E, gone)) for part, each in data.histories.items()},
    )
    config = override(base, [f"train.warm_start={tmp_path / 'old'}", "train.epochs=1", "train.learning_rate=0.000001"])
    config = override(config, [f"rows.seed={seed}"])
    after = train_any(config, without, tmp_path / "new").items_MD
    known_M = load_two_tower(tmp_path / "new", without)[1].known.items_M
    like_M = torch.isclose(before, after, atol=1e-3).all(dim=1).numpy()
    assert like_M[gone][known_M[gone]].all() and not known_M[ITEMS:].any()
    assert known_M[gone].all() == kept


def test_pairs_without_times_are_read_in_any_order(tmp_path: Path) -> None:
    result = train_any(override(SMALL, ["train.list_length=5", "train.learning_rate=0.01"]), planted(), tmp_path / "r")
    popular = next(each for each in result.baselines["test"] if each.name == "popularity")
    assert result.test.recall > 2 * popular.values["recall"]


def test_several_interests_are_trained_against_hard_negatives_too_and_the_best_counts(tmp_path: Path) -> None:
    config = override(SMALL, ["model.interests=3", "model.hard_negatives=4"])
    result = train_any(config, data := walks(), tmp_path / "run")
    assert result.test.recall > 0.8
    _, learner = load_two_tower(tmp_path / "run", data)
    items_MD = learner.item_rows()
    interests_GQD, _ = learner.interests(items_MD, np.arange(5), test=True)
    assert interests_GQD.shape == (5, 3, 16)
    scores_BM = learner.score(np.arange(5), test=True)(np.arange(5))
    assert torch.allclose(scores_BM, (interests_GQD @ items_MD.T).amax(dim=1))


def behind_noise() -> Interactions:
    """Walks in which an event of one item comes after each other one."""
    data = walks()

    def noisy(of: UserEvents) -> UserEvents:
        events = of.where(np.repeat(np.arange(len(of.user_E)), 2))
        assert events.time_ms_E is not None
        noise_E = np.arange(len(events.user_E)) % 2 == 1
        return dataclasses.replace(
            events,
            item_E=np.where(noise_E, ALL_ITEMS - 1, events.item_E),
            time_ms_E=events.time_ms_E + noise_E,
            attributes={name: np.where(noise_E, 0, keys_E) for name, keys_E in events.attributes.items()},
        )

    return dataclasses.replace(data, histories={part: noisy(of) for part, of in data.histories.items()})


def test_what_the_events_before_the_window_tell_is_learnt_by_their_hashes(tmp_path: Path) -> None:
    data, config = behind_noise(), override(SMALL, ["model.window=1", "model.bits=1", "train.epochs=24"])
    without = train_any(config, data, tmp_path / "without")
    config = override(config, ["model.long_history=1"])
    whole = train_any(config, data, tmp_path / "whole")
    assert without.test.recall < 0.3 and whole.test.recall > 0.7
    assert compare_with_baselines(tmp_path / "whole", data, "test")[0] == whole.test


def test_a_killed_run_with_a_long_history_and_heads_goes_on_to_the_same_last_digit(tmp_path: Path) -> None:
    data = walks()
    changes = ["model.window=3", "model.long_history=9", "model.multi_task_weight=0.3", "train.epochs=4"]
    config = override(SMALL, [*changes, "train.checkpoint_epochs=1", "train.patience=9"])
    whole = train_any(config, data, tmp_path / "whole")

    def kill(progress: RetrievalProgress) -> None:
        if progress.step == 40 and progress.validation is None:
            raise Killed

    with pytest.raises(Killed):
        train_any(config, data, tmp_path / "part", report=kill)
    resumed = train_any(config, data, tmp_path / "part", resume=True)
    assert resumed.test == whole.test and torch.equal(resumed.items_MD, whole.items_MD)
    assert "beside the next item, training predicts its group, tags" in whole.notes and resumed.notes == whole.notes
    for setting in ("model.multi_task_weight=0", "model.long_history=0"):
        other = train_any(override(config, [setting]), data, tmp_path / setting)
        assert not torch.equal(other.items_MD, whole.items_MD)
    warm = override(config, [f"train.warm_start={tmp_path / 'whole'}"])
    with pytest.raises(ConfigError, match=r"model.long_history is 9, that of this run 8; allowed: the same"):
        train_any(override(warm, ["model.long_history=8"]), data, tmp_path / "next")


def test_attributes_that_cannot_be_predicted_are_left_out_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = walks(), override(SMALL, ["model.multi_task_weight=0.3", "train.epochs=1"])
    columns = {**data.item_columns, "group": np.full(ALL_ITEMS, -1)}
    one = train_any(config, dataclasses.replace(data, item_columns=columns), tmp_path / "one")
    assert "beside the next item, training predicts its tags" in one.notes
    monkeypatch.setattr("recsys.training.retrieval.two_tower.predicted.MOST_VALUES", 5)
    with pytest.raises(ConfigError, match="no categorical feature of items has from 2 to 5 values that the tables"):
        train_any(config, data, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_featureset_without_history_is_told_what_it_needs(tmp_path: Path) -> None:
    data = walks()
    assert data.ids is not None
    bare = dataclasses.replace(data.ids, features=dataclasses.replace(FEATURES, history=None))
    with pytest.raises(ConfigError, match="the FeatureSet 'walks' declares none; add \"history\" to it"):
        train_any(SMALL, dataclasses.replace(data, ids=bare, histories={}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_in_which_nothing_comes_after_an_event_is_refused(tmp_path: Path) -> None:
    data = walks()
    first = np.unique(data.train.user_E, return_index=True)[1]
    early = make_pairs(
        data.train.user_E[first], data.train.item_E[first], time_ms_E=np.ones(len(first), dtype=np.int64)
    )
    with pytest.raises(InvalidInputError, match="none of the 90 training pairs comes after an event of its user"):
        train_any(SMALL, dataclasses.replace(data, train=early), tmp_path / "run")


def test_settings_that_the_model_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.negatives is 8, but two_tower learns from histories by softmax"):
        override(SMALL, ["train.negatives=8"])
    with pytest.raises(ConfigError, match=r"train.freeze_items is 'b', but two_tower has no vectors of users to refit"):
        override(SMALL, ["train.freeze_items=b"])
    with pytest.raises(ConfigError, match=r"train.loss is 'bpr'; allowed of two_tower: softmax"):
        override(SMALL, ["train.loss=bpr"])
    with pytest.raises(ConfigError, match=r"train.batch_size is 0; allowed of two_tower: 1 or more"):
        override(SMALL, ["train.batch_size=0"])
    with pytest.raises(ConfigError, match=r"model.signatures \* model.bits is 16 \* 4; allowed: up to 62"):
        override(SMALL, ["model.bits=4"])
    with pytest.raises(ConfigError, match=r"model.long_history is -1; allowed: 0 or more"):
        override(SMALL, ["model.long_history=-1"])
    with pytest.raises(ConfigError, match=r"model.heads is 3; allowed: a divisor of model.dim, which is 16"):
        override(SMALL, ["model.heads=3"])
    with pytest.raises(ConfigError, match=r"rows.min_count is 1, but mf has vectors of users and of items alone"):
        override(RetrievalRunConfig(recipe="r"), ["model.kind=mf", "rows.min_count=1"])
    assert from_json(RetrievalRunConfig, to_json(SMALL)) == SMALL


@pytest.mark.parametrize(
    "rows",
    [
        ["rows.map=hash", "rows.budget=0.5"],
        ["rows.map=double_hash", "rows.budget=0.5"],
        ["rows.map=frequency", "rows.budget=0.5"],
        ["rows.map=unified", "rows.chunks=1", "model.attribute_dim=16"],
        ["rows.unknown_rows=8"],
    ],
    ids=lambda rows: rows[0],
)
def test_whatever_the_tables_a_new_item_has_the_row_of_its_attributes_alone(rows: list[str], tmp_path: Path) -> None:
    result = train_any(override(SMALL, [*rows, "train.epochs=4"]), data := walks(), tmp_path / "run")
    popular = next(each for each in result.baselines["test"] if each.name == "popularity")
    assert result.test.recall > 2 * popular.values["recall"]
    _, learner = load_two_tower(tmp_path / "run", data)
    items_MD, everything = learner.item_rows(), np.arange(ALL_ITEMS)
    with torch.no_grad():
        without_MD = learner.tower.items(learner.tower.look_up(everything, without_id_A=everything >= 0))
    assert torch.equal(items_MD[ITEMS:], without_MD[ITEMS:] * learner.length.times)
    assert not torch.isclose(items_MD[:ITEMS], without_MD[:ITEMS], atol=1e-3).all(dim=1).any()


def test_a_log_of_one_item_is_refused_and_items_of_the_test_part_alone_are_missed(tmp_path: Path) -> None:
    data = walks()
    zero = np.zeros_like(data.train.item_E)
    one = dataclasses.replace(data, train=make_pairs(data.train.user_E, zero, time_ms_E=data.train.time_ms_E))
    assert len(one.train) == USERS
    with pytest.raises(InvalidInputError, match="all 89 targets of training are one item"):
        train_any(SMALL, one, tmp_path / "one")
    config = override(SMALL, ["train.epochs=1", "model.id_dropout=0", "train.patience=0"])
    moved = dataclasses.replace(
        data, test=make_pairs(data.test.user_E, np.full(len(data.test), ITEMS), time_ms_E=data.test.time_ms_E)
    )
    assert train_any(config, moved, tmp_path / "moved").test.recall == 0.0


def test_attributes_that_most_items_lack_are_read_where_they_are(tmp_path: Path) -> None:
    data = walks()
    columns = dict(data.item_columns)
    columns["group"] = np.where(np.arange(ALL_ITEMS) % 10 == 0, columns["group"], -1)
    columns["tags"] = np.full_like(columns["tags"], -1)
    columns["price"] = np.full(ALL_ITEMS, np.nan, dtype=np.float32)
    result = train_any(SMALL, sparse := dataclasses.replace(data, item_columns=columns), tmp_path / "run")
    assert result.test.recall > 0.7
    known_M = load_two_tower(tmp_path / "run", sparse)[1].known.items_M
    assert known_M[:ITEMS].all()
    assert known_M[ITEMS:].tolist() == (np.arange(ITEMS, ALL_ITEMS) % 10 == 0).tolist()


def test_an_item_that_was_renamed_is_a_new_one_with_its_attributes(
    run: tuple[Path, Interactions, RetrievalRunResult], tmp_path: Path
) -> None:
    data = walks()
    assert data.ids is not None
    keys_M = data.ids.item_keys_M.copy()
    keys_M[3] = 999_999
    renamed = dataclasses.replace(data, ids=dataclasses.replace(data.ids, item_keys_M=keys_M))
    config = override(SMALL, ["train.epochs=1", f"train.warm_start={run[0]}", "train.learning_rate=0.000001"])
    result = train_any(config, renamed, tmp_path / "next")
    before, after = run[2].items_MD, result.items_MD
    assert torch.allclose(before[:3], after[:3], atol=1e-3) and not torch.allclose(before[3], after[3], atol=1e-2)
    nearest = int((after[3] @ before[:ITEMS].T).argmax())
    assert nearest // GROUP == 3 // GROUP
