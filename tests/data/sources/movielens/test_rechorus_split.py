"""The published split of MovieLens-1M has its published counts, and is prepared once, row for row."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.data.log.event_table import user_events
from recsys.data.samples.dataset import make_batch
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.sources.movielens.prepare import MOVIELENS_1M, load_movielens, prepare_movielens, rechorus_split
from recsys.data.sources.raw_log import RawLog
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.errors import InvalidInputError
from recsys.features.hashing import MISSING, string_key
from recsys.features.history.records import event_dtype


def small_log(ratings: list[tuple[int, int, int, int]]) -> RawLog:
    """(user, movie, rating, day) with midnight of UTC+8 as the start of a day."""
    user, item, rating, day = (np.array(column) for column in zip(*ratings, strict=True))
    return RawLog(
        users={"user_id": np.unique(user)},
        items={"movie_id": np.unique(item), "title": ["t"] * len(np.unique(item))},
        user=user,
        item=item,
        rating=rating.astype(np.uint8),
        timestamp_ms=(978_278_400 + day * 86_400) * 1000,
        source="test",
    )


def test_the_split_cuts_days_at_80_and_90_percent_of_the_last() -> None:
    raw = small_log([(u, i, 5, day) for u in range(5) for i in range(5) for day in (0, 8, 9, 10)])
    split = rechorus_split(raw)
    days = (raw.timestamp_ms // 1000 - 978_278_400) // 86_400
    assert set(days[split.train]) == {0, 8}
    assert set(days[split.validation]) == {9}
    assert set(days[split.test]) == {10}
    assert len(split.kept) == len(raw)


def test_users_and_movies_without_5_positives_are_removed_until_stable() -> None:
    core = [(u, i, 5, 0) for u in range(5) for i in range(5)]
    # User 8 has 5 positives only with movie 9, and movie 9 has 5 only with users that go.
    falling = [(8, i, 5, 0) for i in (0, 1, 2, 3, 9)] + [(9, 9, 5, 0), (9, 0, 3, 0)]
    split = rechorus_split(small_log(core + falling))
    assert split.kept.tolist() == list(range(25))


def test_test_rows_of_users_or_movies_unknown_to_training_are_left_out() -> None:
    core = [(u, i, 5, 0) for u in range(5) for i in range(5)]
    new_user = [(7, i, 5, 10) for i in range(5)]
    new_movie = [(u, 7, 5, 10) for u in range(5)]
    known = [(0, 0, 2, 10)]
    split = rechorus_split(small_log(core + new_user + new_movie + known))
    assert len(split.kept) == 36
    assert split.test.tolist() == [35]


def test_a_log_without_a_core_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no user is left: expected users and movies with at least 5 ratings"):
        rechorus_split(small_log([(1, 1, 5, 0)]))


def test_preparing_again_reads_what_is_there_and_another_log_gets_its_own(tmp_path: Path) -> None:
    def log(seed: int) -> RawLog:
        return make_synthetic_log(users=20, events_per_user=30, items=12, seed=seed)

    first = prepare_movielens(log(0), tmp_path / "p")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*")}
    second = prepare_movielens(log(0), tmp_path / "p")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*")} == made
    np.testing.assert_array_equal(first.split("train"), second.split("train"))
    prepare_movielens(log(1), tmp_path / "p")
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_a_preparation_that_stopped_half_way_is_finished(tmp_path: Path) -> None:
    raw = make_synthetic_log(users=20, events_per_user=30, items=12)
    first = prepare_movielens(raw, tmp_path / "p")
    (folder,) = (tmp_path / "p").iterdir()
    shutil.rmtree(folder / "samples")
    second = prepare_movielens(raw, tmp_path / "p")
    np.testing.assert_array_equal(first.samples.label, second.samples.label)


def test_prepared_samples_are_the_rows_of_the_split_in_any_order_of_the_log(tmp_path: Path) -> None:
    ordered = make_synthetic_log(users=30, events_per_user=40, items=24)
    shuffled = np.random.default_rng(0).permutation(len(ordered))
    columns = {name: getattr(ordered, name)[shuffled] for name in ("user", "item", "rating", "timestamp_ms")}
    raw = RawLog(users=ordered.users, items=ordered.items, source="test", **columns)
    dataset, split = prepare_movielens(raw, tmp_path / "p"), rechorus_split(raw)
    for name in ("train", "validation", "test"):
        rows = getattr(split, name)
        batch = make_batch(dataset, dataset.split(name))
        position = dataset.samples.position[dataset.split(name)]
        got = zip(
            batch.user["user_id"],
            batch.item["movie_id"],
            batch.labels,
            dataset.table.timestamp_ms[position],
            strict=True,
        )
        expected = zip(raw.user[rows], raw.item[rows], raw.rating[rows] >= 4, raw.timestamp_ms[rows], strict=True)
        assert sorted(map(tuple, got)) == sorted(map(tuple, expected))


@pytest.fixture(scope="module")
def movielens(movielens_folder: Path) -> RawLog:
    return load_movielens(movielens_folder.resolve(), cache_dir=Path("unused"), allow_download=False)


def test_the_split_has_the_published_counts(movielens: RawLog) -> None:
    """ReChorus 2.0, RecSys 2024."""
    split = rechorus_split(movielens)
    positive = movielens.rating >= 4
    assert len(movielens) == 1_000_209
    assert len(split.kept) == 994_338
    assert len(np.unique(movielens.user[split.kept])) == 6_034
    assert len(np.unique(movielens.item[split.kept])) == 3_125
    counts = {name: (len(rows), int(positive[rows].sum())) for name in ("train", "validation", "test")
              for rows in [getattr(split, name)]}  # fmt: skip
    assert counts == {"train": (983_836, 568_761), "validation": (5_190, 2_651), "test": (5_176, 2_874)}


def test_movielens_is_prepared_with_its_counts_and_features(movielens: RawLog, tmp_path: Path) -> None:
    dataset = prepare_movielens(movielens, tmp_path / "p")
    assert len(dataset) == len(dataset.table) == 994_338
    assert len(dataset.table.user_keys) == 6_040
    assert len(dataset.table.item_keys) == 3_883
    test = dataset.split("test")
    assert (len(test), int(dataset.samples.label[test].sum())) == (5_176, 2_874)
    batch = make_batch(dataset, test)
    assert set(batch.user) == {"user_id", "gender", "age", "occupation", "zip"}
    assert set(batch.item) == {"movie_id", "main_genre", "genres", "year"}
    assert set(batch.history) == {"history.movie_id", "history.main_genre", "history.rating"}
    assert np.diff(batch.history_offsets).max() == 50
    assert set(np.unique(batch.history["history.rating"])) == {1, 2, 3, 4, 5}
    assert MISSING not in batch.history["history.main_genre"]
    toy_story = int(np.flatnonzero(dataset.table.item_keys == 1)[0])
    assert dataset.item["genres"][toy_story].tolist() == [
        *(string_key(genre) for genre in ("Animation", "Children's", "Comedy")), *[MISSING] * 3
    ]  # fmt: skip
    assert dataset.item["year"][toy_story] == 1995


def test_user_events_of_movielens_are_packed_events(movielens: RawLog, tmp_path: Path) -> None:
    table = prepare_movielens(movielens, tmp_path / "p").table
    events = user_events(table, 0)
    assert events.dtype == event_dtype(MOVIELENS_1M)
    ratings: Any = movielens.rating[movielens.user == table.user_keys[0]]
    assert sorted(events["rating"]) == sorted(ratings)  # user 1 rated no movie that was left out


def test_a_rating_that_repeats_another_is_one_event_and_one_sample(tmp_path: Path) -> None:
    core = [(u, i, 5 if (u + i) % 4 else 2, day) for u in range(8) for i in range(8) for day in (0, 8, 9, 10)]
    plain, doubled = small_log(core), small_log([r for rating in core for r in [rating] * (1 + rating[1] % 2)][::-1])
    features = {"gender": ["F"] * 8, "age": [1] * 8, "occupation": [1] * 8, "zip": ["1"] * 8}
    movies = {"main_genre": ["g"] * 8, "genres": [["g"]] * 8, "year": [None] * 8}
    logs = [replace(r, users={**r.users, **features}, items={**r.items, **movies}) for r in (plain, doubled)]
    once, twice = (prepare_movielens(log, tmp_path / "p") for log in logs)
    assert len(twice) == len(once) == len(core)
    for name in ("train", "validation", "test"):
        seen = [
            sorted(zip(d.sample_user[s], d.sample_item[s], d.samples.label[s], strict=True))
            for d in (once, twice)
            for s in [d.split(name)]
        ]
        assert seen[0] == seen[1]


@pytest.mark.parametrize("part", ["events", "samples"])
def test_a_part_that_was_deleted_is_prepared_again(part: str, tmp_path: Path) -> None:
    raw = make_synthetic_log(users=20, events_per_user=30, items=12)
    first = prepare_movielens(raw, tmp_path / "p")
    (folder,) = (tmp_path / "p").iterdir()
    shutil.rmtree(folder / part)
    assert data_fingerprint(prepare_movielens(raw, tmp_path / "p")) == data_fingerprint(first)
