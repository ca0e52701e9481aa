"""Allowed rows may be found, and nothing else: the list is the best of the allowed rows, whatever says which."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_retrieval import (
    GENRE_FEATURES,
    best_by_history,
    best_items,
    tiny_attributes,
    tiny_history_tables,
    tiny_tables,
    write_tiny_history_retrieval,
    write_tiny_retrieval,
)

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import open_bundle
from recsys.errors import InvalidInputError, ModelError
from recsys.features.history.records import make_events
from recsys.operators import Operators
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.inference.retrieval_session import RetrievalSession, open_retrieval

NOTHING = np.empty(0, dtype=np.int64)
ITEMS = 23
"""Not a multiple of 8, and one below it: masks end within a byte, and at its end with an added item."""


def allow(rows: list[int], every: int, form: Literal["list", "mask"]) -> Allowed:
    """These of rows 1 to ``every``."""
    if form == "list":
        return Allowed(rows_L=np.array(rows, dtype=np.int64))
    return Allowed(mask=np.packbits(np.isin(np.arange(every + 1), rows), bitorder="little"))


@pytest.fixture(scope="module", params=["auto", "standard"])
def operators(request: pytest.FixtureRequest) -> Operators:
    found: Operators = request.param
    return found


@pytest.fixture(scope="module")
def session(operators: Operators, tmp_path_factory: pytest.TempPathFactory) -> RetrievalSession:
    path = tmp_path_factory.mktemp("allowed") / "bundle"
    write_tiny_retrieval(path, tiny_tables(ITEMS))
    return open_retrieval(open_bundle(path), operators=operators)


@pytest.fixture(scope="module")
def by_history(operators: Operators, tmp_path_factory: pytest.TempPathFactory) -> RetrievalSession:
    path = tmp_path_factory.mktemp("allowed") / "bundle"
    tables = tiny_history_tables(ITEMS)
    write_tiny_history_retrieval(path, tables, features=GENRE_FEATURES, attributes=tiny_attributes())
    return open_retrieval(open_bundle(path), operators=operators)


ROWS = st.lists(st.integers(1, ITEMS), unique=True).map(sorted)
FORMS = st.sampled_from(["list", "mask"])


@given(
    rows=ROWS, form=FORMS, user=st.integers(1, 8), seen=st.lists(st.integers(0, ITEMS + 3)), k=st.integers(1, ITEMS + 5)
)
@settings(max_examples=100)
def test_the_list_is_the_best_of_the_rows_that_are_allowed_and_not_left_out(
    rows: list[int], form: Literal["list", "mask"], user: int, seen: list[int], k: int, session: RetrievalSession
) -> None:
    # User 7 and 8 are not known: what is popular is allowed or not, too. Item i's row is i.
    got = session.retrieve(user, np.array(seen, dtype=np.int64), k, allowed=allow(rows, ITEMS, form))
    items, scores = best_items(tiny_tables(ITEMS), user, {*seen, *range(1, ITEMS + 1)} - (set(rows) - set(seen)), k)
    assert got.items.tolist() == items.tolist() and got.scores.tolist() == scores.tolist()


ADDED_KEYS = np.array([5, 1000, 1001, 1002])
"""The bundle has the first: it takes no part, though it has a row."""


@given(
    rows=st.lists(st.integers(1, ITEMS + 4), unique=True).map(sorted),
    form=FORMS,
    history=st.lists(st.sampled_from([*range(1, ITEMS + 1), 1000, 1002, 99]), max_size=8),
    seen=st.lists(st.sampled_from([*range(1, ITEMS + 1), 1001, 99])),
    k=st.integers(1, ITEMS + 9),
)
@settings(max_examples=100)
def test_neighbours_and_added_items_are_allowed_or_not_as_others_are(
    rows: list[int],
    form: Literal["list", "mask"],
    history: list[int],
    seen: list[int],
    k: int,
    by_history: RetrievalSession,
) -> None:
    random = np.random.default_rng(3)
    added = AddedItems(ADDED_KEYS, random.integers(-8, 8, (4, 8)).astype(np.float32))
    keys, scores = _by_definition(history, added)
    row = np.concatenate([np.arange(1, ITEMS + 1), ITEMS + 1 + np.arange(1, 4)])
    left = np.flatnonzero(np.isin(row, rows) & ~np.isin(keys, seen))
    best = left[np.lexsort((row[left], -scores[left]))][:k]
    events = make_events(
        GENRE_FEATURES,
        item=history,
        timestamp_ms=list(range(len(history))),
        attributes={"rating": [1] * len(history)},
    )
    allowed = allow(rows, ITEMS + 4, form)
    got = by_history.retrieve(1, np.array(seen, dtype=np.int64), k, events, added, allowed=allowed)
    assert got.items.tolist() == keys[best].tolist()
    assert got.scores.tolist() == scores[best].tolist()


def _by_definition(history: list[int], added: AddedItems) -> tuple[Int64Array, Float32Array]:
    """Keys and scores of all items, then of the added ones that take part."""
    tables = tiny_history_tables(ITEMS)
    keys, scores = best_by_history(tables, {key: 1.0 for key in set(history) if key <= ITEMS}, (), ITEMS)
    by_key = dict(zip(keys.tolist(), scores.tolist(), strict=True))
    of_bundle = np.array([by_key[key] for key in range(1, ITEMS + 1)], dtype=np.float32)
    new = {int(key): row for key, row in zip(added.keys[1:], added.rows[1:], strict=True)}
    known = [key for key in set(history) if key <= ITEMS or key in new]
    if not known:
        of_added = np.zeros(3, dtype=np.float32)
    else:
        if not any(key <= ITEMS for key in known):
            of_bundle = np.zeros(ITEMS, dtype=np.float32)
        halves = [tables.history_MD[key - 1] if key <= ITEMS else new[key][:4] for key in known]
        user_D = np.sum(halves, axis=0)
        of_new = np.sum([new[key][:4] for key in known if key in new], axis=0) if set(known) & set(new) else np.zeros(4)
        of_bundle = of_bundle + tables.items_MD @ of_new
        of_added = added.rows[1:, 4:] @ user_D
    return np.concatenate([np.arange(1, ITEMS + 1), added.keys[1:]]), np.concatenate([of_bundle, of_added])


@pytest.mark.parametrize("form", ["list", "mask"])
def test_where_nothing_is_allowed_the_list_is_empty(form: Literal["list", "mask"], session: RetrievalSession) -> None:
    got = session.retrieve(1, NOTHING, 5, allowed=allow([], ITEMS, form))
    assert got.items.shape == got.scores.shape == (0,) and got.known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of rows_L and mask is to be given"),
        ({"rows_L": np.array([1]), "mask": np.zeros(3, np.uint8)}, "exactly one of rows_L and mask"),
        ({"rows_L": np.array([1], np.int32)}, r"rows_L is int32 \[1\]; expected int64, one dimension"),
        ({"mask": np.zeros((1, 3), np.uint8)}, r"mask is uint8 \[1, 3\]; expected uint8, one dimension"),
        ({"rows_L": np.array([0, 1])}, "rows_L must be ascending, distinct and 1 or more"),
        ({"rows_L": np.array([3, 3])}, "rows_L must be ascending, distinct and 1 or more"),
    ],
)
def test_what_does_not_say_which_rows_is_refused(given: dict[str, Int64Array], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Allowed(**given)  # type: ignore[arg-type]


def test_rows_that_there_are_not_are_refused(session: RetrievalSession, by_history: RetrievalSession) -> None:
    with pytest.raises(InvalidInputError, match=r"row 24 was given; allowed: 1 to 23 \(23 items, 0 added\)"):
        session.retrieve(1, NOTHING, 5, allowed=Allowed(rows_L=np.array([3, 24])))
    with pytest.raises(InvalidInputError, match="the mask has 4 bytes; expected 3, for rows 0 to 23"):
        session.retrieve(1, NOTHING, 5, allowed=Allowed(mask=np.zeros(4, np.uint8)))
    added = AddedItems(np.array([1000]), np.zeros((1, 8), np.float32))
    with pytest.raises(InvalidInputError, match="the mask has 3 bytes; expected 4, for rows 0 to 24"):
        by_history.retrieve(1, NOTHING, 5, added=added, allowed=Allowed(mask=np.zeros(3, np.uint8)))


@pytest.mark.parametrize("form", ["list", "mask"])
def test_too_few_of_those_allowed_are_no_answer(
    form: Literal["list", "mask"], operators: Operators, tmp_path: Path
) -> None:
    """A score that is no number is found by no search: the answer would be silently short."""
    write_tiny_retrieval(tmp_path / "bundle", tiny_tables(ITEMS))
    session = open_retrieval(open_bundle(tmp_path / "bundle"), operators=operators)
    file = tmp_path / "bundle" / "tables" / "item_id.rows.bin"
    rows = np.fromfile(file, dtype=np.float32).reshape(-1, 6)
    rows[4] = np.nan
    session.guard.check_before = session.guard.check = lambda: None  # type: ignore[method-assign]
    np.memmap(file, np.float32, "r+", shape=rows.shape)[:] = rows
    assert len(session.retrieve(1, NOTHING, 2, allowed=allow([3, 5], ITEMS, form)).items) == 2
    with pytest.raises(ModelError, match="gave no finite number for 1 items at least"):
        session.retrieve(1, NOTHING, 2, allowed=allow([3, 4], ITEMS, form))
