"""Row maps: the contract, on every registered method, and what each is by its definition."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from contracts.row_map_contract import *  # noqa: F403
from contracts.row_map_contract import Graph, export_row_maps
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.frequency import frequency_hash
from recsys.embeddings.row_maps.graph import graph_rows
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.embeddings.row_maps.row_map import RowMap, RowMapModule
from recsys.embeddings.row_maps.unified import unified_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING, PRIME, hash_keys
from recsys.training.config import RowConfig

ROWS = 500


def _ids() -> Int64Array:
    random = np.random.Generator(np.random.PCG64(1))
    small, large = random.integers(0, 5000, size=1500), random.integers(0, KEY_LIMIT, size=1500)
    return random.permutation(np.unique(np.concatenate([small, large, [0, KEY_LIMIT - 1]])))


IDS = _ids()
COUNTS = np.random.Generator(np.random.PCG64(2)).permutation(np.arange(len(IDS)) // 2 + 1)
LABELS = np.arange(len(IDS)) % 41 - 1
EDGES_OF_IDS = (np.repeat(np.arange(len(IDS) - 100), 3), np.arange(3 * (len(IDS) - 100)) * 7 % 211)


@dataclass(frozen=True)
class Training:
    """What a method is told, of one table ``t``."""

    settings: RowConfig

    counts = {"t": (IDS, COUNTS)}

    def budgeted_rows(self, table: str) -> int:
        return ROWS

    def width(self, table: str) -> int:
        return 8

    def shared_widths(self) -> tuple[int, ...]:
        return (8,)

    def pairs(self, table: str) -> tuple[Int64Array, Int64Array]:
        own_E, other_E = EDGES_OF_IDS
        return IDS[own_E], other_E

    def clusters(self, table: str) -> tuple[Int64Array, Int64Array]:
        return IDS, LABELS


def registered(kind: str, seed: int) -> RowMap:
    """The map that a recipe's ``rows.map`` makes of these ids."""
    settings = RowConfig(budget=(ROWS - 1) / len(IDS), min_count=1, seed=seed)
    return ROW_MAPS[kind](["t"], Training(settings))["t"]


MAPS: dict[str, Callable[[int], RowMap]] = {
    **{kind: partial(registered, kind) for kind in ROW_MAPS},
    "vocabulary with unknown and spare rows": lambda seed: vocabulary(
        "t", IDS, COUNTS, min_count=300, unknown_rows=50, spare_rows=30, seed=seed
    ),
    "unified in chunks of two tables": lambda seed: unified_rows(
        ["u", "t"], rows=ROWS, chunks={"u": 2, "t": 3}, num_tables=2, seed=seed
    )["t"],
    "graph with unseen rows": lambda seed: graph_rows("t", IDS, LABELS, unseen_rows=60, spare_ids=9, seed=seed),
    "double_graph with unseen rows": lambda seed: graph_rows("t", IDS, LABELS, unseen_rows=60, double=True, seed=seed),
}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return export_row_maps({name: build(0) for name, build in MAPS.items()})


@pytest.fixture(scope="module", params=MAPS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def graph(name: str, graphs: dict[str, Graph]) -> Graph:
    return graphs[name]


@pytest.fixture(scope="module")
def row_map(name: str) -> RowMap:
    return MAPS[name](0)


@pytest.fixture(scope="module")
def twin(name: str) -> RowMap:
    return MAPS[name](0)


@pytest.fixture(scope="module")
def reseeded(name: str) -> RowMap:
    return MAPS[name](1)


@pytest.fixture(scope="module")
def known() -> Int64Array:
    return IDS


@pytest.fixture(scope="module")
def unknown() -> Int64Array:
    return np.setdiff1d(np.concatenate([IDS + 1, np.arange(5000), [KEY_LIMIT - 2]]), [*IDS, KEY_LIMIT])


def test_a_map_names_its_kind(name: str, row_map: RowMap) -> None:
    assert row_map.kind == name.split()[0]


def test_alike_maps_looked_up_at_once_answer_as_each_does(name: str) -> None:
    maps = {f"t{seed}": MAPS[name](seed) for seed in (3, 4, 5)}
    assert len({row_map.form for row_map in maps.values()}) == 1
    keys = np.stack([np.concatenate([[MISSING], np.roll(IDS, shift)[:60] + shift % 2]) for shift in range(3)])
    module = RowMapModule(maps)
    for shaped in (keys, keys[:, :60].reshape(3, 20, 3)):
        found = module.rows(torch.from_numpy(shaped), list(maps))
        for place, row_map in enumerate(maps.values()):
            rows = np.stack([rows[place].numpy() for rows in found], axis=-1)
            np.testing.assert_array_equal(rows, row_map.lookup(shaped[place]))


def of(counts: dict[int, int]) -> tuple[Int64Array, Int64Array]:
    """Ids and counts as arrays."""
    return np.array(list(counts), dtype=np.int64), np.array(list(counts.values()), dtype=np.int64)


def by_falling_count() -> Int64Array:
    """``IDS`` from the most frequent on, equals by rising id, by Python's own sort."""
    counted = zip(IDS.tolist(), COUNTS.tolist(), strict=True)
    return np.array([key for key, _ in sorted(counted, key=lambda pair: (-pair[1], pair[0]))])


# vocabulary


def test_every_id_of_a_vocabulary_has_a_row_of_its_own() -> None:
    row_map = vocabulary("t", IDS, COUNTS)
    assert sorted(row_map.lookup(IDS)[:, 0]) == list(range(1, len(IDS) + 1))
    assert row_map.table_rows() == {"t": len(IDS) + 1}


def test_rows_are_in_order_of_falling_count_then_rising_id() -> None:
    row_map = vocabulary("t", *of({9: 2, 4: 5, 7: 2, 1: 3}))
    assert row_map.lookup(np.array([4, 1, 7, 9]))[:, 0].tolist() == [1, 2, 3, 4]


def test_ids_below_min_count_share_row_0() -> None:
    row_map = vocabulary("t", *of({1: 3, 2: 2, 3: 1}), min_count=3)
    assert row_map.lookup(np.array([1, 2, 3]))[:, 0].tolist() == [1, 0, 0]
    assert row_map.table_rows() == {"t": 2}


def test_ids_without_a_row_hash_to_the_unknown_rows_behind_the_spare_ones() -> None:
    row_map = vocabulary("t", *of({1: 3, 2: 2, 3: 1}), min_count=2, unknown_rows=5, spare_rows=4)
    assert row_map.lookup(np.array([1, 2]))[:, 0].tolist() == [1, 2]
    assert row_map.spare_rows.tolist() == [3, 4, 5, 6]
    assert row_map.table_rows() == {"t": 1 + 2 + 4 + 5}
    assert set(row_map.lookup(np.array([3, *range(10, 200)]))[:, 0].tolist()) == {7, 8, 9, 10, 11}
    assert row_map.lookup(np.array([MISSING])).tolist() == [[0]]


def test_a_vocabulary_has_room_for_its_spare_ids() -> None:
    row_map = vocabulary("t", *of({1: 1, 2: 1}), spare_rows=1000)
    assert row_map.ids is not None and row_map.ids.capacity >= 1002


def test_a_vocabulary_of_nothing_has_the_unknown_row() -> None:
    empty = vocabulary("t", np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert empty.table_rows() == {"t": 1}
    assert empty.lookup(np.array([0, 5, -1])).tolist() == [[0], [0], [0]]
    assert empty.module()(torch.tensor([[0, 5]])).tolist() == [[[0], [0]]]


# hashes


@pytest.mark.parametrize("spread", ["consecutive", "random", "same low half", "multiples of the rows"])
def test_two_ids_share_a_hashed_row_as_often_as_by_chance(spread: str) -> None:
    random = np.random.Generator(np.random.PCG64(3))
    n, rows, seeds = 2000, 401, 20
    keys = {
        "consecutive": np.arange(n),
        "random": np.unique(random.integers(0, KEY_LIMIT, size=n)),
        "same low half": np.arange(n) << 31,
        "multiples of the rows": np.arange(n) * 400,
    }[spread]
    shared = [equal_pairs(hash_rows("t", rows=rows, seed=seed).lookup(keys)) for seed in range(seeds)]
    by_chance = len(keys) * (len(keys) - 1) / 2 / (rows - 1)
    assert np.mean(shared) == pytest.approx(by_chance, rel=0.1)


def test_hashed_ids_use_every_row_but_that_of_missing_ids() -> None:
    assert set(hash_rows("t", rows=100).lookup(np.arange(5000))[:, 0].tolist()) == set(range(1, 100))


def test_the_two_hashes_of_a_double_hash_are_independent() -> None:
    rows_VK = hash_rows("t", rows=101, functions=2).lookup(IDS)
    pairs = len(IDS) * (len(IDS) - 1) / 2
    for k in range(2):
        assert equal_pairs(rows_VK[:, k : k + 1]) == pytest.approx(pairs / 100, rel=0.1)
    assert equal_pairs(rows_VK) == pytest.approx(pairs / 100**2, rel=0.3)


def test_tables_of_one_seed_have_hashes_of_their_own() -> None:
    rows = [hash_rows(table, rows=101).lookup(IDS)[:, 0] for table in ("a", "b")]
    assert np.mean(rows[0] == rows[1]) < 0.03


# frequency


@pytest.mark.parametrize("functions", [1, 2])
def test_the_most_frequent_ids_have_rows_of_their_own_and_the_others_share_the_rest(functions: int) -> None:
    row_map = frequency_hash("t", IDS, COUNTS, rows=ROWS, frequent=0.4, functions=functions)
    own = int((ROWS - 1) * 0.4)
    ranked = by_falling_count()
    for k in range(functions):
        assert row_map.lookup(ranked[:own])[:, k].tolist() == list(range(1, own + 1))
        assert set(row_map.lookup(ranked[own:])[:, k].tolist()) == set(range(own + 1, ROWS))
    assert row_map.table_rows() == {"t": ROWS}


def test_a_rare_id_of_a_double_frequency_map_has_two_independent_rows() -> None:
    rare = by_falling_count()[250:]
    rows_VK = frequency_hash("t", IDS, COUNTS, rows=ROWS, functions=2).lookup(rare)
    assert np.mean(rows_VK[:, 0] == rows_VK[:, 1]) < 0.02


def test_a_share_of_0_is_a_hash_of_all_ids() -> None:
    row_map = frequency_hash("t", IDS, COUNTS, rows=ROWS, frequent=0.0)
    np.testing.assert_array_equal(row_map.lookup(IDS), hash_rows("t", rows=ROWS).lookup(IDS))


def test_fewer_ids_than_rows_for_frequent_ones_leave_the_rest_to_hashed_ids() -> None:
    row_map = frequency_hash("t", *of({5: 1, 6: 2}), rows=100, frequent=0.9)
    assert row_map.lookup(np.array([6, 5]))[:, 0].tolist() == [1, 2]
    assert set(row_map.lookup(np.arange(10, 3000))[:, 0].tolist()) == set(range(3, 100))


# quotient and remainder


def test_no_two_known_ids_have_the_same_quotient_and_remainder() -> None:
    row_map = quotient_remainder("t", IDS, COUNTS, rows=ROWS)
    assert row_map.combine == "product"
    assert [lookup.table for lookup in row_map.lookups] == ["t__quotient", "t__remainder"]
    assert equal_pairs(row_map.lookup(IDS)) == 0


def test_quotient_and_remainder_are_of_the_place_in_the_order_of_counts() -> None:
    row_map = quotient_remainder("t", IDS, COUNTS, rows=ROWS)
    remainders = row_map.table_rows()["t__remainder"] - 1
    place = np.arange(len(IDS))
    expected = np.stack([1 + place // remainders, 1 + place % remainders], axis=1)
    np.testing.assert_array_equal(row_map.lookup(by_falling_count()), expected)


@given(st.integers(1, 400), st.integers(0, 300))
@settings(max_examples=100)
def test_the_two_tables_keep_to_the_budget_with_as_many_remainders_as_it_allows(ids: int, more: int) -> None:
    least = 2 + min(r + -(-ids // r) for r in range(1, ids + 1))
    keys = np.arange(ids)
    sizes = quotient_remainder("t", keys, keys, rows=least + more).table_rows()
    quotients, remainders = (sizes[f"t__{part}"] - 1 for part in ("quotient", "remainder"))
    assert quotients == -(-ids // remainders)
    assert quotients + remainders + 2 <= least + more
    larger = remainders + 1
    assert larger + -(-ids // larger) + 2 > least + more, "another remainder would have fitted"
    with pytest.raises(InvalidInputError, match=rf"table 't': {least - 1} rows .* {ids:,} ids; allowed: {least} or"):
        quotient_remainder("t", keys, keys, rows=least - 1)


def test_an_unknown_id_hashes_to_a_quotient_and_a_remainder_of_its_own() -> None:
    row_map = quotient_remainder("t", IDS, COUNTS, rows=120)
    sizes = row_map.table_rows()
    rows = row_map.lookup(np.setdiff1d(np.arange(20_000), IDS))
    for k, part in enumerate(("quotient", "remainder")):
        assert set(rows[:, k].tolist()) == set(range(1, sizes[f"t__{part}"]))


# unified


def test_chunks_take_the_shared_tables_in_turn() -> None:
    maps = unified_rows(["a", "b", "c"], rows=50, chunks={"a": 2, "b": 1, "c": 2}, num_tables=2)
    used = {table: [lookup.table for lookup in row_map.lookups] for table, row_map in maps.items()}
    assert used == {"a": ["unified_0", "unified_1"], "b": ["unified_0"], "c": ["unified_1", "unified_0"]}
    assert {row_map.combine for row_map in maps.values()} == {"concat"}


def test_the_salt_differs_by_table_and_by_chunk() -> None:
    maps = unified_rows(["a", "b"], rows=101, chunks={"a": 2, "b": 2})
    columns = [maps[table].lookup(IDS)[:, k] for table in ("a", "b") for k in range(2)]
    for i, one in enumerate(columns):
        for other in columns[:i]:
            assert np.mean(one == other) < 0.03  # 1 in 100 by chance


def test_the_order_of_tables_changes_no_hash() -> None:
    forth, back = (unified_rows(t, rows=101, chunks={"a": 1, "b": 1}) for t in (["a", "b"], ["b", "a"]))
    for table in ("a", "b"):
        np.testing.assert_array_equal(forth[table].lookup(IDS), back[table].lookup(IDS))


# What all hashes share


def test_a_hashed_row_is_the_universal_hash_behind_the_first_row() -> None:
    hashed = hashed_rows((7, "t", 0), first=11, count=90)
    lookup = hash_rows("t", rows=91, seed=7)
    coefficients = np.array(hashed.coefficients)
    np.testing.assert_array_equal(lookup.lookup(IDS)[:, 0] + 10, hashed.first + hash_keys(IDS, coefficients, 90))


def equal_pairs(rows_VK: Int64Array) -> int:
    """Pairs of ids with the same rows in every lookup."""
    return sum(n * (n - 1) // 2 for n in Counter(map(tuple, rows_VK.tolist())).values())


# What is refused

ONE = of({7: 1})
TWICE = (np.array([5, 6, 5]), np.array([3, 2, 1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: vocabulary("t", *ONE, min_count=0), "min_count is 0; allowed: 1 or more"),
        (lambda: vocabulary("t", *ONE, unknown_rows=-1), "table 't': unknown_rows is -1; allowed: 0 or more"),
        (lambda: vocabulary("t", *ONE, spare_rows=-2), "table 't': spare_rows is -2; allowed: 0 or more"),
        (lambda: hash_rows("t", rows=10, functions=0), "table 't': 0 hash functions; allowed: 1 or more"),
        (lambda: frequency_hash("t", *ONE, rows=9, functions=0), "table 't': 0 hash functions; allowed: 1 or more"),
        (lambda: frequency_hash("t", *ONE, rows=9, frequent=1.0), "for frequent ids is 1.0; allowed: 0 to < 1"),
        (lambda: frequency_hash("t", *ONE, rows=9, frequent=-0.1), "for frequent ids is -0.1; allowed: 0 to < 1"),
        (lambda: frequency_hash("t", *ONE, rows=9, frequent=float("nan")), "ids is nan; allowed: 0 to < 1"),
        (lambda: unified_rows(["a"], rows=9, chunks={"a": 1}, num_tables=0), "unified: 0 shared tables; allowed: 1"),
        (lambda: unified_rows(["a", "a"], rows=9, chunks={"a": 1}), "unified: table 'a' is declared twice"),
        (lambda: unified_rows(["a", "b"], rows=9, chunks={"a": 1}), "unified: 0 chunks for table 'b'; allowed: 1"),
        (lambda: unified_rows(["a"], rows=9, chunks={"a": -3}), "unified: -3 chunks for table 'a'; allowed: 1 or"),
    ],
)
def test_a_number_out_of_range_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


@pytest.mark.parametrize("rows", [1, 0, -5, PRIME + 1])
def test_too_few_or_too_many_rows_are_refused(rows: int) -> None:
    allowed = rf"{rows} rows; allowed: 2 to {PRIME:,}, of which one is for missing ids"
    for table, build in {
        "t": lambda: hash_rows("t", rows=rows),
        "u": lambda: frequency_hash("u", *ONE, rows=rows),
        "unified_0": lambda: unified_rows(["a"], rows=rows, chunks={"a": 1}),
    }.items():
        with pytest.raises(InvalidInputError, match=f"table '{table}': {allowed}"):
            build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: vocabulary("t", *TWICE),
        lambda: frequency_hash("t", *TWICE, rows=100),
        lambda: quotient_remainder("t", *TWICE, rows=100),
    ],
)
def test_an_id_given_twice_is_refused(build: Callable[[], RowMap]) -> None:
    with pytest.raises(InvalidInputError, match="id table: 1 keys are given more than once"):
        build()
