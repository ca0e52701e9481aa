"""Plans of filters: whatever is chosen, what passes is what the definition says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.feature_set import Categorical, Numeric
from recsys.serving import item_columns
from recsys.serving.filters import planner
from recsys.serving.filters.clauses import Clause, clauses_of
from recsys.serving.filters.contradiction import contradiction
from recsys.serving.filters.language import Condition, Filter, Range, flag_condition, make_filter, set_condition
from recsys.serving.filters.planner import passing
from recsys.serving.filters.selection import IndexFilter, candidates_pass
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.item_columns.generation import Generation
from recsys.serving.item_columns.writer import ColumnWriter

KIND = Categorical(name="kind", filterable=True)
TAGS = Categorical(name="tags", max_values=3, filterable=True)
SIZE = Numeric(name="size", filterable=True)
FILTERABLE = (("item", KIND), ("item", TAGS), ("item", SIZE))
COUNT = 3_000
UNKNOWN = 7


def items() -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    random = np.random.default_rng(0)
    keys = random.permutation(10 * COUNT)[:COUNT].astype(np.int64)
    kind = random.integers(-1, 40, COUNT)
    tags = random.integers(-1, 6, (COUNT, 3))
    size = np.where(random.random(COUNT) < 0.2, np.nan, random.integers(0, 20, COUNT)).astype(np.float32)
    return keys, {"kind": kind, "tags": tags, "size": size}


KEYS, COLUMNS = items()
INDEX = np.sort(np.concatenate([KEYS[: COUNT - 50], np.arange(10 * COUNT, 10 * COUNT + UNKNOWN)]))
"""Of an index that lacks 50 of the items, and has 7 that the columns lack."""

ADDED = AddedItems(
    np.sort(np.concatenate([KEYS[COUNT - 30 :], np.array([10 * COUNT + 100])])), np.zeros((31, 1), dtype=np.float32)
)


def put(to: ColumnWriter, places: slice, *, instead: int = 0) -> None:
    """Write items; with the values of those so far behind them instead."""
    of = {name: np.roll(column, -instead, axis=0)[places] for name, column in COLUMNS.items()}
    to.write(KEYS[places], of, {"item": np.ones(len(KEYS[places]), dtype=np.uint8)})


@pytest.fixture(scope="module", params=["no lists", "lists", "lists of before"])
def columns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ItemColumns:
    """The items; with lists of them by value, or lists of when 500 had other values and 100 were not there."""
    folder = tmp_path_factory.mktemp("columns")
    to = ColumnWriter(folder, FILTERABLE, limit_bytes=1 << 24)
    to.begin(10)
    before = request.param == "lists of before"
    for start in range(0, COUNT - 100 * before, 400):
        part = slice(start, min(start + 400, COUNT - 100 * before))
        put(to, part, instead=40 if before and start < 500 else 0)
    to.publish()
    if request.param != "no lists":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(item_columns.writer, "FEWEST_LISTED", 0)
            to.list_places()
        assert to.listing is not None
        to.listing.join()
    if before:
        put(to, slice(0, 800))
        put(to, slice(COUNT - 100, COUNT))
    to.state.is_current(1e9)
    made = ItemColumns(folder)
    generation = made.read(lambda generation, version: generation).found
    assert generation is not None and generation.has_lists == (request.param != "no lists")
    return made


def passes(condition: Condition, kind: int, tags: list[int], size: float) -> bool:
    """The definition."""
    if condition.test == "range":
        low, high = condition.range.low, condition.range.high
        above = low is None or (size > low if condition.range.low_open else size >= low)
        below = high is None or (size < high if condition.range.high_open else size <= high)
        return not np.isnan(size) and above and below
    values = {"kind": [kind], "tags": tags, "size": [size]}[condition.attribute]
    known = [value for value in values if value != -1 and not np.isnan(value)]
    if condition.test == "present":
        return bool(known) == condition.flag
    if condition.test == "flag":
        return bool(known) and (known[0] != 0) == condition.flag
    found = any(value in condition.keys for value in known)
    return found if condition.test == "any_of" else not found


def expected(wanted: Filter, kind: int, tags: list[int], size: float) -> bool:
    return all(any(passes(each, kind, tags, size) for each in clause) for clause in wanted.clauses)


sets = st.lists(st.integers(0, 45), min_size=1, max_size=12)
conditions = st.one_of(
    st.builds(lambda test, keys: set_condition("x", test, KIND, keys), st.sampled_from(["any_of", "none_of"]), sets),
    st.builds(lambda test, keys: set_condition("x", test, TAGS, keys), st.sampled_from(["any_of", "none_of"]), sets),
    st.builds(
        lambda low, high, a, b: Condition(
            feature=SIZE, test="range", range=Range(low=low, high=high, low_open=a, high_open=b)
        ),
        st.integers(0, 20).map(float),
        st.one_of(st.none(), st.integers(0, 20).map(float)),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(lambda f, flag: flag_condition("x", f, flag), st.sampled_from([KIND, SIZE]), st.booleans()),
    st.builds(
        lambda f, flag: Condition(feature=f, test="present", flag=flag),
        st.sampled_from([KIND, TAGS, SIZE]),
        st.booleans(),
    ),
)  # fmt: skip


@settings(max_examples=60)
@given(
    clauses=st.lists(st.lists(conditions, min_size=1, max_size=3), min_size=1, max_size=4),
    few=st.sampled_from([0.0, 0.1, 1.0]),
    listed=st.sampled_from([0.0, 10.0]),
)
def test_any_plan_of_any_filter_finds_what_the_definition_says(
    columns: ItemColumns, clauses: list[list[Condition]], few: float, listed: float
) -> None:
    wanted = make_filter(clauses)
    rows = {key: (COLUMNS["kind"][i], COLUMNS["tags"][i].tolist(), COLUMNS["size"][i]) for i, key in enumerate(KEYS)}
    nothing: tuple[int, list[int], float] = (-1, [-1, -1, -1], float("nan"))
    every = [*INDEX.tolist(), *ADDED.keys.tolist()]
    good = [row + 1 for row, key in enumerate(every) if expected(wanted, *rows.get(key, nothing))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "FEW", few)
        patch.setattr(planner, "LISTED", listed)
        found = IndexFilter(columns, INDEX).select(wanted, ADDED)
    assert found.allowed is not None and found.report.passed == len(good)
    if contradiction(wanted):
        assert good == [] and found.report.reason == "contradiction"
    if found.allowed.rows_L is not None:
        assert found.allowed.rows_L.tolist() == good
    else:
        assert found.allowed.mask is not None
        bits = np.unpackbits(found.allowed.mask, bitorder="little")
        assert np.flatnonzero(bits).tolist() == good and len(found.allowed.mask) == len(every) // 8 + 1
    keys = np.array([*KEYS[:40].tolist(), *every[-3:]])
    assert candidates_pass(columns, wanted, keys)[0].tolist() == [
        expected(wanted, *rows.get(key, nothing)) for key in keys.tolist()
    ]


def test_an_equal_filter_is_answered_from_before_until_an_item_changes(columns: ItemColumns) -> None:
    index = IndexFilter(columns, INDEX)
    first = index.select(make_filter([[set_condition("x", "any_of", KIND, [3, 4])]]), ADDED)
    assert index.select(make_filter([[set_condition("x", "any_of", KIND, [4, 3])]]), ADDED).allowed is first.allowed
    with columns.state.changing():
        pass
    again = index.select(make_filter([[set_condition("x", "any_of", KIND, [4, 3])]]), ADDED)
    assert again.allowed is not first.allowed and again.report.passed == first.report.passed


def test_without_columns_nothing_passes_a_filter_and_it_is_said(tmp_path: Path) -> None:
    wanted = make_filter([[set_condition("x", "none_of", KIND, [3])]])
    found = IndexFilter(ItemColumns(tmp_path), INDEX).select(wanted, None)
    assert found.allowed is not None and found.allowed.rows_L is not None and len(found.allowed.rows_L) == 0
    assert found.report.reason == "not_ready" and found.report.degraded
    plain = IndexFilter(ItemColumns(tmp_path), INDEX).select(None, None)
    assert plain.allowed is None and plain.report.degraded  # nothing is known of withdrawn items either


@pytest.mark.parametrize("columns", ["lists", "lists of before"], indirect=True)
def test_items_with_few_values_are_found_by_their_lists(columns: ItemColumns, monkeypatch: pytest.MonkeyPatch) -> None:
    def scanned(*given: Any) -> None:
        raise AssertionError("all items are looked at")

    monkeypatch.setattr(planner, "_shares", scanned)
    monkeypatch.setattr(planner, "LISTED", 0.0)
    wanted = make_filter([[set_condition("x", "any_of", TAGS, [2, 3]), set_condition("x", "any_of", KIND, [4])]])
    few = [kind == 4 or bool({2, 3} & set(tags)) for kind, tags in zip(COLUMNS["kind"], COLUMNS["tags"], strict=True)]
    found = columns.read(lambda generation, version: generation.items.keys_C[passing(wanted, generation).places]).found
    assert found is not None and sorted(found.tolist()) == sorted(KEYS[few].tolist())


@pytest.mark.parametrize("columns", ["lists of before"], indirect=True)
def test_lists_that_another_thread_finds_meanwhile_do_not_count(
    columns: ItemColumns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes are looked at since the lists that are taken were made, not since the newest."""
    wanted = make_filter([[set_condition("x", "any_of", KIND, [4])]])

    def found(generation: Generation, version: int) -> list[int]:
        def clauses(*given: Any) -> list[Clause]:
            made = clauses_of(*given)
            monkeypatch.setattr(generation, "postings", SimpleNamespace(since=generation.changes))
            return made

        monkeypatch.setattr(planner, "clauses_of", clauses)
        return sorted(generation.items.keys_C[passing(wanted, generation).places].tolist())

    monkeypatch.setattr(planner, "LISTED", 0.0)
    assert columns.read(found).found == sorted(KEYS[COLUMNS["kind"] == 4].tolist())
