"""The loader's order, shares, resumption and threads."""

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys.data.samples.loader
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.loader import BatchLoader
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.errors import InvalidInputError
from recsys.features.encode import EncodedBatch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    raw = make_synthetic_log(users=40, events_per_user=30, items=30)
    return prepare_movielens(raw, tmp_path_factory.mktemp("prepared"))


def samples_of(batch: EncodedBatch) -> list[tuple[int, ...]]:
    """What tells samples apart: user, movie, history length, label."""
    lengths = np.diff(batch.history_offsets)
    columns = (batch.user["user_id"], batch.item["movie_id"], lengths, batch.labels)
    return [tuple(int(v) for v in row) for row in zip(*columns, strict=True)]


def epoch_of(loader: BatchLoader) -> list[list[tuple[int, ...]]]:
    return [samples_of(batch) for batch in loader]


def make(dataset: Dataset, **options: Any) -> BatchLoader:
    return BatchLoader(dataset, np.arange(103), **{"batch_size": 8, "seed": 3, **options})


def test_the_order_depends_only_on_seed_and_epoch(dataset: Dataset) -> None:
    loader, same = make(dataset), make(dataset, prefetch=0)
    first, second = epoch_of(loader), epoch_of(loader)
    assert [first, second] == [epoch_of(same), epoch_of(same)]
    assert first != second
    assert first != epoch_of(make(dataset, seed=4))


def test_an_epoch_visits_every_sample_once(dataset: Dataset) -> None:
    loader = make(dataset)
    batches = epoch_of(loader)
    assert len(batches) == len(loader) == 13
    in_order = epoch_of(make(dataset, shuffle=False))
    assert sorted(sum(batches, [])) == sorted(sum(in_order, []))
    assert [len(batch) for batch in in_order] == [8] * 12 + [7]


def test_unshuffled_batches_come_in_the_order_of_the_indices(dataset: Dataset) -> None:
    chosen = np.array([5, 3, 4])
    loader = BatchLoader(dataset, chosen, batch_size=2, shuffle=False)
    users = np.concatenate([batch.user["user_id"] for batch in loader])
    assert users.tolist() == dataset.user["user_id"][dataset.sample_user[chosen]].tolist()


def test_drop_last_leaves_out_the_short_step(dataset: Dataset) -> None:
    batches = epoch_of(make(dataset, drop_last=True))
    assert [len(batch) for batch in batches] == [8] * 12


@settings(max_examples=40, deadline=None)
@given(
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 20),
    samples=st.integers(0, 60),
    drop_last=st.booleans(),
)
def test_ranks_share_every_step_without_overlap(
    dataset: Dataset, world_size: int, batch_size: int, samples: int, drop_last: bool
) -> None:
    def loader(rank: int, of: int, size: int) -> BatchLoader:
        return BatchLoader(
            dataset, np.arange(samples), batch_size=size, drop_last=drop_last, rank=rank, world_size=of, prefetch=0
        )

    ranks = [epoch_of(loader(rank, world_size, batch_size)) for rank in range(world_size)]
    alone = epoch_of(loader(0, 1, batch_size * world_size))
    assert {len(batches) for batches in ranks} == {len(alone)}
    for step, whole in enumerate(alone):
        shares = [batches[step] for batches in ranks]
        assert Counter(sum(shares, [])) == Counter(whole)
        assert max(map(len, shares)) - min(map(len, shares)) <= (0 if drop_last else 1)


@pytest.mark.parametrize("consumed", [0, 1, 5, 13])
def test_resuming_continues_with_the_next_batch(dataset: Dataset, consumed: int) -> None:
    whole = make(dataset)
    expected = epoch_of(whole) + epoch_of(whole)

    loader = make(dataset, prefetch=4)
    seen = []
    if consumed:
        for batch in loader:
            seen.append(samples_of(batch))
            if len(seen) == consumed:
                break
    resumed = make(dataset, prefetch=1)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.epoch == 0
    seen += epoch_of(resumed) + epoch_of(resumed)
    assert seen == expected
    assert resumed.state_dict()["epoch"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "loader state was taken with seed 3, this loader has 4; resume with the same setting"),
        ({"batch_size": 9}, "taken with samples_per_step 8, this loader has 9"),
        ({"shuffle": False}, "taken with shuffle 1, this loader has 0"),
    ],
)
def test_a_state_of_another_loader_is_refused(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(dataset, **options).load_state_dict(make(dataset).state_dict())


def test_a_state_out_of_range_is_refused(dataset: Dataset) -> None:
    loader = make(dataset)
    with pytest.raises(InvalidInputError, match="loader state: epoch 0, next_batch 14 of 13 batches"):
        loader.load_state_dict({**loader.state_dict(), "next_batch": 14})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"prefetch": -1}, "prefetch is -1; allowed: 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2; allowed: 0 to world_size - 1"),
        ({"world_size": 0}, "rank 0 of world_size 0"),
    ],
)
def test_an_option_out_of_range_is_refused(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(dataset, **options)


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "recsys-batches"]


@pytest.mark.parametrize("consumed", [1, 2, 7])
@pytest.mark.parametrize("prefetch", [1, 3, 50])
def test_an_abandoned_iteration_leaves_no_thread(dataset: Dataset, prefetch: int, consumed: int) -> None:
    batches = iter(make(dataset, prefetch=prefetch))
    for _ in range(consumed):
        next(batches)
    assert len(batch_threads()) <= 1
    del batches
    assert batch_threads() == []


def test_a_finished_iteration_leaves_no_thread(dataset: Dataset) -> None:
    epoch_of(make(dataset))
    assert batch_threads() == []


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_exception_in_the_thread_reaches_the_consumer(
    dataset: Dataset, prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = recsys.data.samples.loader.make_batch, []

    def fails_at_the_third(*args: Any) -> EncodedBatch:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("disk gone")
        return original(*args)

    monkeypatch.setattr(recsys.data.samples.loader, "make_batch", fails_at_the_third)
    batches = iter(make(dataset, prefetch=prefetch))
    next(batches), next(batches)
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert batch_threads() == []


def test_an_abandoned_iteration_ends_even_when_its_thread_holds_an_error(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls, failed = recsys.data.samples.loader.make_batch, [], threading.Event()

    def fails_at_the_third(*args: Any) -> EncodedBatch:
        calls.append(1)
        if len(calls) == 3:
            failed.set()
            raise OSError("disk gone")
        return original(*args)

    monkeypatch.setattr(recsys.data.samples.loader, "make_batch", fails_at_the_third)
    batches = iter(make(dataset, prefetch=1))
    next(batches)
    assert failed.wait(timeout=5)  # the second batch fills the queue, the error waits behind it
    del batches
    assert batch_threads() == []


def test_the_thread_builds_no_more_than_asked_ahead(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    original, built = recsys.data.samples.loader.make_batch, threading.Semaphore(0)
    count = []

    def counted(*args: Any) -> EncodedBatch:
        count.append(1)
        built.release()
        return original(*args)

    monkeypatch.setattr(recsys.data.samples.loader, "make_batch", counted)
    batches = iter(make(dataset, prefetch=2))
    next(batches)
    for _ in range(4):  # one consumed, two waiting, one in the thread's hands
        assert built.acquire(timeout=5)
    assert not built.acquire(timeout=0.05)
    assert len(count) == 4
    del batches
