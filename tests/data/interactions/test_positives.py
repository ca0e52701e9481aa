"""Positive samples of a log as pairs: which are pairs, in which part, with which weight, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.own_log import prepared, prepared_csv

from recsys.data.datasets import load_dataset
from recsys.data.interactions.datasets import INTERACTION_SETS, load_interaction_set
from recsys.data.interactions.pairs import Interactions, Pairs, hold_out, ids_of, make_pairs
from recsys.data.interactions.positives import PairRule, positive_pairs
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, DataFileError, InvalidInputError

DAY_MS, START_MS = 86_400_000, 1_700_000_000_000
ACTIONS = {
    "name": "acts",
    "user_id": {"name": "user_id"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "context": [{"kind": "categorical", "name": "device"}],
    "history": {"recent": 5, "attributes": [{"name": "action", "id_type": "string"}]},
}
ROWS = [  # user, item, day, device, action, label
    (7, "a", 0, 1, "view", 1),
    (7, "a", 1, 1, "buy", 1),
    (7, "b", 1, 2, "view", 1),
    (7, "c", 1, 1, "view", 0),
    (9, "a", 2, 2, "view", 1),
    (9, "b", 2, 1, "view", 0),
    (9, "c", 4, 1, "buy", 1),
    (7, "a", 4, 1, "buy", 1),  # known from training
    (8, "b", 4, 1, "view", 0),
    (8, "d", 4, 1, "buy", 1),  # a new user, a new item
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four days, of which the last is for test."""
    rows = [f"{u},{i},{START_MS + d * DAY_MS},{v},{a},{label}" for u, i, d, v, a, label in ROWS]
    cut = ["--test-from", str(START_MS + 3 * DAY_MS), "--validation-from", str(START_MS + 3 * DAY_MS)]
    folder = prepared_csv(tmp_path_factory.mktemp("acts"), ACTIONS, rows, *cut)
    return load_dataset(str(folder), work_dir=folder).dataset


def pairs_of(log: Dataset, **rule: object) -> Interactions:
    return positive_pairs(log, PairRule(validation_share=0.0, **rule), source="acts")  # type: ignore[arg-type]


def named(made: Interactions, pairs: Pairs) -> list[tuple[int, str]]:
    ids = ids_of(made)
    assert ids.item_names_M is not None
    return [(int(ids.user_keys_N[u]), ids.item_names_M[i]) for u, i in zip(pairs.user_E, pairs.item_E, strict=True)]


def test_a_pair_is_a_positive_sample_in_the_first_part_that_has_it(log: Dataset) -> None:
    made = pairs_of(log)
    assert sorted(named(made, made.train)) == [(7, "a"), (7, "b"), (9, "a")]
    assert sorted(named(made, made.test)) == [(8, "d"), (9, "c")]
    assert made.num_items == 4 and made.num_users == 3 and ids_of(made).features == log.table.features
    assert made.train.time_ms_E is not None and made.train.weight_E is None
    newest = dict(zip(named(made, made.train), made.train.time_ms_E.tolist(), strict=True))
    assert newest[7, "a"] == START_MS + DAY_MS, "of its newest event in the part"


def test_actions_weigh_pairs_by_their_strongest_event(log: Dataset) -> None:
    made = pairs_of(log, action="action", action_weights={"buy": 5.0})
    assert made.train.weight_E is not None
    weights = dict(zip(named(made, made.train), made.train.weight_E.tolist(), strict=True))
    assert weights == {(7, "a"): 5.0, (7, "b"): 1.0, (9, "a"): 1.0}
    only = pairs_of(log, action="action", action_weights={"view": 0.0})
    assert named(only, only.train) == [(7, "a")] and only.train.weight_E == [1.0]
    by_context = pairs_of(log, action="device", action_weights={"2": 3.0})
    assert by_context.train.weight_E is not None and sorted(by_context.train.weight_E) == [1.0, 3.0, 3.0]


def test_since_leaves_older_pairs_known_but_not_drawn(log: Dataset) -> None:
    made = pairs_of(log, since="1d")
    assert made.fresh_E is not None and len(made.train) == 3
    assert sorted(named(made, made.train.where(made.fresh_E))) == [(7, "a"), (7, "b"), (9, "a")]
    assert named(made, made.train.where(pairs_of(log, since="12h").fresh_E)) == [(9, "a")]  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="none of the 3 training pairs is as new as 2030"):
        pairs_of(log, since="2030-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("rule", "message"),
    {
        "acton": ({"action": "acton", "action_weights": {"buy": 1.0}}, "data.action is 'acton': did you mean 'action'"),
        "alone": ({"action": "action"}, "data.action is 'action' without data.action_weights"),
        "text": ({"action": "device", "action_weights": {"tv": 1.0}}, r"\['tv'\]; device takes integers"),
        "since": ({"since": "monday"}, "data.since is 'monday'; allowed: a time such as"),
    }.values(),
)
def test_a_rule_that_the_log_does_not_fit_is_refused(rule: dict[str, object], message: str, log: Dataset) -> None:
    with pytest.raises(ConfigError, match=message):
        pairs_of(log, **rule)


def test_histories_are_what_a_server_would_read_at_the_first_moment_of_the_part(log: Dataset) -> None:
    def items(log: Dataset, user: int, part: str = "test") -> list[str]:
        made = pairs_of(log)
        events, ids = made.histories[part], ids_of(made)
        assert ids.item_names_M is not None
        (index,) = np.flatnonzero(ids.user_keys_N == user)
        return [ids.item_names_M[item] for item in events.item_E[events.user_E == index]]

    assert sorted(items(log, 7)) == ["a", "a", "b", "c"]
    history = dataclasses.replace(log.table.features.history, max_age_s=4 * 86_400 - 1)  # type: ignore[type-var]
    features = dataclasses.replace(log.table.features, history=history)
    young = dataclasses.replace(log, table=dataclasses.replace(log.table, features=features))
    assert sorted(items(young, 7)) == ["a", "b", "c"], "what was four days ago is too old"
    assert sorted(items(young, 7, "train")) == ["a", "a", "b", "c"], "an earlier moment saw it"
    arrival_ms = np.array(log.table.arrival_ms)
    arrival_ms[np.asarray(log.table.timestamp_ms) == START_MS + 2 * DAY_MS] += 10 * DAY_MS
    late = dataclasses.replace(log, table=dataclasses.replace(log.table, arrival_ms=arrival_ms))
    assert sorted(items(log, 9)) == ["a", "b"] and items(late, 9) == [], "what had not arrived was not there"


def test_where_no_part_is_for_validation_the_newest_pairs_are_held_out_and_nothing_later_is_read(log: Dataset) -> None:
    made = positive_pairs(log, PairRule(validation_share=0.5), source="acts")
    held, ids = made.validation, ids_of(made)
    assert [user for user, _ in named(made, held)] == [7] and held.time_ms_E is not None
    kept = made.train.where(made.train.user_E == held.user_E[0])
    assert kept.time_ms_E is not None and kept.time_ms_E.max() <= held.time_ms_E.min()
    events = made.histories["validation"]
    own = events.where(events.user_E == held.user_E[0])
    assert own.time_ms_E is not None and (own.time_ms_E < held.time_ms_E.min()).all() and len(events.user_E)
    assert not np.isin(held.item_E, own.item_E).any() and ids.item_names_M is not None
    assert made.notes == (
        "there is no validation part: of each user's training pairs the newest 50% are held out, at least 1, and the "
        "history for them ends before the first",
    )
    again = (log.sample_user == held.user_E[0]) & (log.sample_time_ms == START_MS + DAY_MS)
    again &= log.sample_item == ids.item_names_M.index("a")
    label = np.where(again, 0, log.samples.label).astype(log.samples.label.dtype)
    one = dataclasses.replace(log, samples=dataclasses.replace(log.samples, label=label))
    for share in (0.1, 0.5):
        made = positive_pairs(one, PairRule(validation_share=share), source="acts")
        assert named(made, made.validation) == [(7, "b")] and (7, "a") in named(made, made.train)
    split_N = np.array([3, 2])  # of one user the two newest of three, by their times
    pairs = make_pairs(np.repeat([0, 1], split_N), np.arange(5), time_ms_E=np.array([30, 10, 20, 5, 6]))
    kept, held = hold_out(pairs, share=0.6, seed=0, newest=True)
    assert (kept.item_E.tolist(), held.item_E.tolist()) == ([1, 3], [0, 2, 4])


def test_a_log_without_positives_says_how_to_get_them(log: Dataset) -> None:
    none = dataclasses.replace(log, samples=dataclasses.replace(log.samples, label=np.zeros_like(log.samples.label)))
    with pytest.raises(DataFileError, match="none of the 6 training samples is a positive.*--label RULE.*--negatives"):
        pairs_of(none)


def test_a_prepared_folder_and_a_built_in_log_are_sets_of_pairs_and_text_files_know_no_actions(tmp_path: Path) -> None:
    made = load_interaction_set(str(prepared()), PairRule(), work_dir=tmp_path)
    assert made.ids is not None and made.ids.features.name == "shop" and len(made.validation) and len(made.test)
    assert made.item_columns["category"].shape == (made.num_items,) and list(made.item_columns) == ["category"]
    assert made.user_columns["age"].shape == (made.num_users,) and list(made.user_columns) == ["age"]
    made = load_interaction_set("synthetic", PairRule(), work_dir=tmp_path)
    assert "synthetic" in INTERACTION_SETS and len(made.train) > len(made.test) > 0
    everything = [part.user_E * made.num_items + part.item_E for part in (made.train, made.validation, made.test)]
    assert len(np.unique(np.concatenate(everything))) == sum(map(len, everything))
    (tmp_path / "train.txt").write_text("0 1\n")
    with pytest.raises(ConfigError, match="data.since is '1d'; allowed for text files of pairs: none"):
        load_interaction_set(str(tmp_path), PairRule(since="1d"), work_dir=tmp_path)


def test_movielens_that_cannot_be_had_is_no_synthetic_log(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFileError):
        load_interaction_set("movielens_1m", PairRule(), work_dir=tmp_path, path=tmp_path / "empty")
