"""Item sequences as interactions: what is trained on, what is found, beside which candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.item_sequences import SEQUENCES, sample_lines, write_sequences

from recsys.data.interactions.datasets import load_interaction_set
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of
from recsys.data.interactions.positives import PairRule
from recsys.errors import ConfigError, InvalidInputError


def loaded(folder: Path, sequences: str = SEQUENCES, **rule: object) -> Interactions:
    data = write_sequences(folder / "data", sequences, sample=sample_lines(sequences))
    rules = PairRule(**rule)  # type: ignore[arg-type]
    return load_interaction_set("lastfm_sequences", rules, work_dir=folder, path=data)


def items_of(made: Interactions, pairs: Pairs, user: int) -> list[int]:
    ids = ids_of(made)
    (index,) = np.flatnonzero(ids.user_keys_N == user)
    return [int(key) for key in ids.item_keys_M[pairs.item_E[pairs.user_E == index]]]


def test_all_items_but_the_last_two_are_training_pairs_the_first_too(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    assert [items_of(made, part, 7) for part in (made.train, made.validation, made.test)] == [[1, 2, 3, 4], [5], [6]]
    assert [items_of(made, part, 9) for part in (made.train, made.validation, made.test)] == [[8, 9], [], []]


def test_histories_are_in_order_and_tell_no_times(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    events, ids = made.histories["test"], ids_of(made)
    (user,) = np.flatnonzero(ids.user_keys_N == 7)
    assert ids.item_keys_M[events.item_E[events.user_E == user]].tolist() == [1, 2, 3, 4, 5]
    assert made.train.time_ms_E is None and events.time_ms_E is None
    assert made.item_columns["attributes"].ndim == 2, "an item's list of attributes"


def test_a_list_of_candidates_begins_with_the_item_that_came_next(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    ids, test = ids_of(made), made.test
    published = {int(row.split()[0]): set(map(int, row.split()[1:])) for row in sample_lines(SEQUENCES).splitlines()}
    lists = made.candidates["test"].of(test.user_E, test.item_E)
    assert lists.shape == (len(test), 100) and (lists[:, 0] == test.item_E).all()
    for user, row in zip(test.user_E.tolist(), lists, strict=True):
        assert set(ids.item_keys_M[row[1:]].tolist()) == published[int(ids.user_keys_N[user])]
    with pytest.raises(InvalidInputError, match="pairs to find beside"):
        made.candidates["test"].of(test.user_E, np.roll(test.item_E, 1))


def test_an_item_that_the_user_had_before_is_not_to_be_found_and_that_is_said(tmp_path: Path) -> None:
    made = loaded(tmp_path, SEQUENCES + "5 1 20 30 1\n")
    assert [items_of(made, part, 5) for part in (made.train, made.validation, made.test)] == [[1, 20], [30], []]
    assert made.notes == ("left out of the test part: 1 users, whose item there is one that they had before",)


def test_a_validation_share_which_sequences_do_not_read_is_noted(tmp_path: Path) -> None:
    (note,) = loaded(tmp_path, validation_share=0.3).notes
    assert "data.validation_share 0.3 is without effect" in note


@pytest.mark.parametrize("rule", [{"since": "2024-01-01"}, {"action": "rating", "action_weights": {"5": 2.0}}])
def test_times_and_actions_are_refused(tmp_path: Path, rule: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed for sequences of items: none"):
        loaded(tmp_path, **rule)
