"""MovieLens-1M as click prediction: the published labels, a split by seed, and no histories."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.sources.movielens.ctr import MOVIELENS_CTR, prepare_movielens_ctr
from recsys.data.sources.movielens.prepare import load_movielens
from recsys.data.sources.raw_log import RawLog
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.errors import InvalidInputError


@pytest.fixture(scope="module")
def raw() -> RawLog:
    return make_synthetic_log(users=40, events_per_user=30, items=50)


def pairs(dataset: Dataset, split: str) -> list[tuple[int, int, int]]:
    """User, movie and label of a split's samples, sorted."""
    batch = make_batch(dataset, dataset.split(split))
    columns = (batch.user["user_id"], batch.item["movie_id"], batch.labels.astype(int))
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_above_3_is_positive_below_negative_and_3_left_out(raw: RawLog, tmp_path: Path) -> None:
    dataset = prepare_movielens_ctr(raw, tmp_path)
    ratings = zip(raw.user.tolist(), raw.item.tolist(), raw.rating.tolist(), strict=True)
    expected = sorted((user, item, int(rating > 3)) for user, item, rating in ratings if rating != 3)
    found = [pair for split in ("train", "validation", "test") for pair in pairs(dataset, split)]
    assert sorted(found) == expected


def test_the_split_is_80_10_10_and_every_sample_is_in_one_part(raw: RawLog, tmp_path: Path) -> None:
    dataset = prepare_movielens_ctr(raw, tmp_path)
    size = len(dataset)
    sizes = [len(dataset.split(name)) for name in ("train", "validation", "test")]
    assert sizes == [size * 8 // 10, size * 9 // 10 - size * 8 // 10, size - size * 9 // 10]
    assert sorted(np.concatenate(list(dataset.samples.splits.values())).tolist()) == list(range(size))


def test_samples_lie_by_user_and_have_no_history(raw: RawLog, tmp_path: Path) -> None:
    dataset = prepare_movielens_ctr(raw, tmp_path)
    assert dataset.table.features == MOVIELENS_CTR
    assert (np.diff(dataset.sample_user) >= 0).all()
    batch = make_batch(dataset, np.arange(5))
    assert batch.history == {} and batch.history_offsets.tolist() == [0] * 6
    assert list(batch.user) == ["user_id", "gender", "age", "occupation", "zip"]
    assert list(batch.item) == ["movie_id"]


def test_the_split_depends_on_the_seed_and_not_on_the_order_or_the_times(raw: RawLog, tmp_path: Path) -> None:
    first = prepare_movielens_ctr(raw, tmp_path, seed=1)
    order = np.random.Generator(np.random.PCG64(3)).permutation(len(raw))
    shuffled = replace(
        raw,
        user=raw.user[order],
        item=raw.item[order],
        rating=raw.rating[order],
        timestamp_ms=np.zeros_like(raw.timestamp_ms),
    )
    assert pairs(prepare_movielens_ctr(shuffled, tmp_path, seed=1), "test") == pairs(first, "test")
    assert pairs(prepare_movielens_ctr(raw, tmp_path, seed=2), "test") != pairs(first, "test")


def test_what_was_prepared_is_reused_until_content_or_seed_change(raw: RawLog, tmp_path: Path) -> None:
    for seed in (0, 0, 1):
        prepare_movielens_ctr(raw, tmp_path, seed=seed)
    assert len(list(tmp_path.iterdir())) == 2
    prepare_movielens_ctr(replace(raw, rating=raw.rating[::-1]), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_log_of_threes_alone_is_refused(raw: RawLog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no sample is left: expected ratings other than 3"):
        prepare_movielens_ctr(replace(raw, rating=np.full_like(raw.rating, 3)), tmp_path)


def test_a_rating_of_an_unknown_user_is_refused(raw: RawLog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"unknown user_id .*999999"):
        prepare_movielens_ctr(replace(raw, user=np.full_like(raw.user, 999_999)), tmp_path)


def test_the_samples_are_as_many_as_published(movielens_folder: Path, tmp_path: Path) -> None:
    raw = load_movielens(movielens_folder, cache_dir=tmp_path, allow_download=False)
    dataset = prepare_movielens_ctr(raw, tmp_path)
    assert (len(dataset), int(dataset.samples.label.sum())) == (739_012, 575_281)
    fields = [*dataset.table.users.values()]
    assert [len(np.unique(field)) for field in fields] == [6040, 2, 7, 21, 3439]
    assert sum((6040, 2, 7, 21, 3439)) + len(np.unique(dataset.sample_item)) == 13_177
