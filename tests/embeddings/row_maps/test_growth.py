"""Tables that grow: who is admitted and evicted, which rows change, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.frequency import frequency_hash
from recsys.embeddings.row_maps.graph import graph_rows
from recsys.embeddings.row_maps.growth import Growth, SeenIds, cluster_count, grow, recluster, room_for_ids
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.unified import unified_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT

IDS = np.array([10, 20, 30, 40], dtype=np.int64)
COUNTS = np.array([9, 7, 5, 3], dtype=np.int64)


def seen(*ids: tuple[int, int] | tuple[int, int, int]) -> SeenIds:
    """Ids with their counts, and the times they were last seen."""
    rows = sorted((each[0], each[1], each[2] if len(each) > 2 else 0) for each in ids)
    keys, counts, times = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return SeenIds(ids_V=keys, counts_V=counts, last_ms_V=times)


def rows_of(row_map: RowMap, *keys: int) -> list[list[int]]:
    return [list(each) for each in row_map.lookup(np.array(keys, dtype=np.int64)).tolist()]


def check_shapes_stay(old: RowMap, growth: Growth) -> None:
    new = growth.row_map
    assert new.lookups == old.lookups and new.kind == old.kind
    assert old.ids is not None and new.ids is not None
    assert new.ids.keys_TW.shape == old.ids.keys_TW.shape
    np.testing.assert_array_equal(new.ids.coefficients, old.ids.coefficients)


def test_newcomers_seen_often_enough_take_spare_rows_the_most_frequent_first() -> None:
    old = vocabulary("item", IDS, COUNTS, spare_rows=3)
    growth = grow(old, seen((10, 8), (50, 5), (60, 9), (70, 4)), admit_count=5)
    assert rows_of(growth.row_map, 10, 20, 30, 40, 60, 50, 70, -1) == [[1], [2], [3], [4], [5], [6], [0], [0]]
    assert growth.admitted.tolist() == [60, 50]
    assert growth.row_map.spare_rows.tolist() == [7]
    assert (growth.no_room, room_for_ids(growth.row_map)) == (0, 1)
    check_shapes_stay(old, growth)


@pytest.mark.parametrize("unknown_rows", [0, 3])
def test_a_new_row_begins_with_the_row_its_id_had_until_then(unknown_rows: int) -> None:
    old = vocabulary("item", IDS, COUNTS, unknown_rows=unknown_rows, spare_rows=2, seed=4)
    growth = grow(old, seen((50, 5), (60, 9)), seed=4)
    (change,) = growth.changes
    assert change.table == "item"
    assert change.rows_R.tolist() == [5, 6]
    assert change.sources_RS.tolist() == old.lookup(np.array([60, 50])).tolist()


def test_what_finds_no_room_is_counted_and_stays_unknown() -> None:
    old = vocabulary("item", IDS, COUNTS, spare_rows=1)
    growth = grow(old, seen((50, 5), (60, 9), (70, 7)))
    assert growth.no_room == 2
    assert rows_of(growth.row_map, 60, 70, 50) == [[5], [0], [0]]


def test_without_newcomers_and_eviction_nothing_changes() -> None:
    old = vocabulary("item", IDS, COUNTS, spare_rows=1)
    growth = grow(old, seen((10, 100)))
    assert growth.row_map.ids is old.ids
    assert growth.changes == () and len(growth.admitted) == len(growth.evicted) == 0
    assert growth.row_map.spare_rows.tolist() == [5]


def test_an_evicted_id_answers_unknown_and_its_row_is_spare_and_like_the_unknown_row() -> None:
    old = vocabulary("item", IDS, COUNTS)
    growth = grow(old, seen((10, 1), (30, 1)), evict="unseen")
    assert growth.evicted.tolist() == [20, 40]
    assert rows_of(growth.row_map, 10, 20, 30, 40) == [[1], [0], [3], [0]]
    assert growth.row_map.spare_rows.tolist() == [2, 4]
    (change,) = growth.changes
    assert change.rows_R.tolist() == [2, 4] and change.sources_RS.tolist() == [[0], [0]]
    check_shapes_stay(old, growth)


def test_a_row_that_is_taken_again_begins_with_its_new_ids_vector() -> None:
    old = vocabulary("item", IDS, COUNTS, unknown_rows=2, seed=1)
    growth = grow(old, seen((10, 1), (30, 1), (50, 6)), evict="unseen", seed=1)
    assert rows_of(growth.row_map, 50) == [[2]]
    (change,) = growth.changes
    assert change.rows_R.tolist() == [2, 4]
    assert change.sources_RS.tolist() == [rows_of(old, 50)[0], [0]]


def test_rows_evicted_at_one_growth_are_taken_at_the_next() -> None:
    old = vocabulary("item", IDS, COUNTS)
    once = grow(old, seen((10, 1), (30, 1)), evict="unseen").row_map
    twice = grow(once, seen((50, 5), (60, 6), (70, 7)))
    assert rows_of(twice.row_map, 70, 60, 50, 10, 30) == [[2], [4], [0], [1], [3]]
    assert twice.no_room == 1


def test_a_count_limits_who_is_evicted_to_the_rarest_in_training_among_equals() -> None:
    old = vocabulary("item", IDS, COUNTS)
    assert grow(old, seen((10, 1)), evict="unseen", evict_count=2).evicted.tolist() == [30, 40]
    assert grow(old, seen((10, 1), (40, 2)), evict="rarest", evict_count=3).evicted.tolist() == [10, 20, 30]


def test_oldest_evicts_those_seen_last_the_longest_ago_as_many_as_lack_room() -> None:
    old = vocabulary("item", IDS, COUNTS)
    log = seen((10, 1, 500), (20, 1, 300), (30, 9, 200), (40, 1, 400), (50, 5, 600), (60, 5, 600))
    growth = grow(old, log, evict="oldest")
    assert growth.evicted.tolist() == [20, 30]
    assert growth.no_room == 0 and growth.admitted.tolist() == [50, 60]


def test_rarest_evicts_only_ids_that_are_rarer_than_the_newcomer_without_room() -> None:
    old = vocabulary("item", IDS, COUNTS, spare_rows=1)
    log = seen((10, 50), (20, 6), (30, 2), (40, 30), (50, 9), (60, 8), (70, 5))
    growth = grow(old, log, evict="rarest")
    # 50 has the spare row; 60, seen 8 times, replaces 30; 70, seen 5 times, would replace 20, seen 6 times.
    assert growth.evicted.tolist() == [30] and growth.admitted.tolist() == [50, 60] and growth.no_room == 1


@pytest.mark.parametrize("functions", [1, 2])
def test_a_frequency_map_admits_into_evicted_rows(functions: int) -> None:
    old = frequency_hash("item", IDS, COUNTS, rows=9, frequent=0.5, functions=functions, seed=2)
    growth = grow(old, seen((10, 1), (30, 1), (40, 1), (50, 6)), evict="unseen", seed=2)
    assert rows_of(growth.row_map, 50) == [[2] * functions]
    assert rows_of(growth.row_map, 20) == old_rows_of_unknown(old, 20)
    (change,) = growth.changes
    # The mean of the rows it had: looked up as often as there are functions, their sum as before.
    assert change.sources_RS.tolist() == rows_of(old, 50)
    check_shapes_stay(old, growth)


def old_rows_of_unknown(row_map: RowMap, key: int) -> list[list[int]]:
    """The rows of an id in a map that knows no id."""
    return rows_of(replace(row_map, ids=None), key)


@pytest.mark.parametrize("double", [False, True])
def test_an_id_joins_the_cluster_it_is_given_and_no_row_changes(double: bool) -> None:
    old = graph_rows("user", IDS, np.array([0, 0, 1, 2]), unseen_rows=2, spare_ids=20, double=double, seed=3)
    labels = {50: 2, 60: 0, 70: -1}
    growth = grow(
        old,
        seen((50, 5), (60, 9), (70, 8), (80, 2)),
        cluster_of=lambda keys: np.array([labels[key] for key in keys.tolist()]),
        seed=3,
    )
    assert growth.row_map.lookup(np.array([10, 20, 30, 40, 50, 60]))[:, 0].tolist() == [1, 1, 2, 3, 3, 1]
    assert rows_of(growth.row_map, 70, 80) == rows_of(old, 70, 80)
    assert (growth.admitted.tolist(), growth.no_cluster, growth.no_room, growth.changes) == ([60, 50], 1, 0, ())
    check_shapes_stay(old, growth)


def test_clusters_take_ids_up_to_the_capacity_and_eviction_makes_room() -> None:
    old = graph_rows("user", IDS, np.array([0, 0, 1, 2]))
    assert old.ids is not None
    room = room_for_ids(old)
    newcomers = [(100 + n, 50 - n) for n in range(room + 3)]
    log = seen((10, 1), (20, 1), *newcomers)
    first = grow(old, log, cluster_of=np.zeros_like)
    assert (len(first.admitted), first.no_room) == (room, 3)
    growth = grow(old, log, evict="unseen", cluster_of=np.zeros_like)
    assert growth.evicted.tolist() == [30, 40]
    assert (len(growth.admitted), growth.no_room) == (room + 2, 1)
    assert rows_of(growth.row_map, 30) == old_rows_of_unknown(old, 30)


def test_clusters_that_persist_keep_their_rows_and_new_ones_begin_with_the_row_most_of_their_ids_had() -> None:
    keys = np.arange(8)
    old = graph_rows("user", keys, np.array([0, 0, 0, 0, 0, 1, 1, 2]), spare_ids=5)
    assert cluster_count(old) == 3
    # Renumbered; the first cluster splits, the third is gone, an id is new.
    new_keys = np.array([0, 1, 2, 3, 4, 5, 6, 9])
    growth = recluster(old, new_keys, np.array([1, 1, 1, 0, 0, 2, 2, 0]))
    assert growth.row_map.lookup(new_keys)[:, 0].tolist() == [1, 1, 1, 3, 3, 2, 2, 3]
    (change,) = growth.changes
    assert (change.rows_R.tolist(), change.sources_RS.tolist()) == ([3], [[1]])
    assert (growth.admitted.tolist(), growth.evicted.tolist()) == ([9], [7])
    check_shapes_stay(old, growth)


def test_clusters_beyond_the_maps_rows_find_no_room() -> None:
    old = graph_rows("user", np.arange(4), np.array([0, 0, 0, 1]), unseen_rows=2)
    growth = recluster(old, np.arange(4), np.array([0, 0, 1, 2]))
    assert growth.row_map.lookup(np.arange(4))[[0, 1, 3], 0].tolist() == [1, 1, 2]
    assert growth.no_room == 1
    assert rows_of(growth.row_map, 2) == old_rows_of_unknown(old, 2)


def test_ids_at_both_ends_of_the_range_are_admitted() -> None:
    growth = grow(vocabulary("item", IDS, COUNTS, spare_rows=2), seen((0, 5), (KEY_LIMIT - 1, 6)))
    assert rows_of(growth.row_map, KEY_LIMIT - 1, 0) == [[5], [6]]


def test_many_ids_grow_as_the_definition_says() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    keys = np.unique(random.integers(0, KEY_LIMIT, size=6000))
    known, counts = keys[::2], random.integers(1, 100, size=len(keys[::2]))
    old = vocabulary("item", known, counts, min_count=10, spare_rows=500)
    log = SeenIds(
        ids_V=keys, counts_V=random.integers(0, 20, size=len(keys)), last_ms_V=np.zeros(len(keys), dtype=np.int64)
    )
    growth = grow(old, log, admit_count=8, evict="unseen")
    was = old.lookup(keys)[:, 0]
    is_ = growth.row_map.lookup(keys)[:, 0]
    stays = (was > 0) & (log.counts_V > 0)
    np.testing.assert_array_equal(is_[stays], was[stays])
    assert set(growth.evicted) == set(keys[(was > 0) & (log.counts_V == 0)])
    wanted = keys[(was == 0) & (log.counts_V >= 8)]
    assert set(growth.admitted) <= set(wanted) and growth.no_room == len(wanted) - len(growth.admitted)
    left_out = np.setdiff1d(wanted, growth.admitted)
    count_of = dict(zip(keys.tolist(), log.counts_V.tolist(), strict=True))
    assert max(count_of[k] for k in left_out.tolist()) <= min(count_of[k] for k in growth.admitted.tolist())
    taken = is_[is_ > 0]
    assert len(np.unique(taken)) == len(taken) and not np.isin(taken, growth.row_map.spare_rows).any()
    assert len(taken) + len(growth.row_map.spare_rows) == old.lookups[0].num_rows - 1


def _hashed() -> list[RowMap]:
    return [
        hash_rows("item", rows=5),
        unified_rows(["item"], rows=5, chunks={"item": 2})["item"],
        quotient_remainder("item", IDS, COUNTS, rows=8),
    ]


@pytest.mark.parametrize("row_map", _hashed(), ids=lambda m: m.kind)
def test_maps_with_a_row_for_every_id_do_not_grow(row_map: RowMap) -> None:
    with pytest.raises(InvalidInputError, match=f"kind '{row_map.kind}' does not grow; allowed: vocabulary"):
        grow(row_map, seen((50, 5)))
    with pytest.raises(InvalidInputError, match=f"kind '{row_map.kind}' has no clusters; allowed: graph, double_graph"):
        recluster(row_map, IDS, np.zeros(4, dtype=np.int64))
    assert room_for_ids(row_map) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"admit_count": 0}, "admit_count is 0; allowed: 1 or more"),
        ({"evict": "dead"}, "evict is 'dead'; allowed: none, unseen, rarest, oldest"),
        ({"evict_count": -1}, "evict_count is -1; allowed: 0 or more"),
        ({"seed": 1}, "seed is 1: its hash functions are not those of the map"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], says: str) -> None:
    keys: Int64Array = IDS
    with pytest.raises(InvalidInputError, match=says):
        grow(vocabulary("item", keys, COUNTS, spare_rows=1), seen((50, 5)), **options)  # type: ignore[arg-type]


def test_a_new_cluster_whose_id_hashed_to_its_row_by_chance_is_new() -> None:
    keys = np.arange(4)
    old = graph_rows("user", keys, np.array([0, 0, 1, 1]), spare_ids=200)
    newcomers = np.arange(100, 200)
    hashed_to_2 = newcomers[old.lookup(newcomers)[:, 0] == 2][:1]
    hashed_to_1 = newcomers[old.lookup(newcomers)[:, 0] == 1][:2]
    # The second cluster is gone; its number goes to three newcomers, two of which answered row 1 until now.
    growth = recluster(old, np.concatenate([keys[:2], hashed_to_2, hashed_to_1]), np.array([0, 0, 1, 1, 1]))
    assert growth.row_map.lookup(hashed_to_2)[:, 0].tolist() == [2]
    (change,) = growth.changes
    assert (change.rows_R.tolist(), change.sources_RS.tolist()) == ([2], [[1]])
