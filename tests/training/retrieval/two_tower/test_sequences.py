"""Windows of histories and their targets: what each target reads is what a server would have seen at its moment."""

import dataclasses

import numpy as np
import pytest
import torch
from support.planted import planted
from support.walks import FEATURES, ITEMS, walks

from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import tower_features
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.two_tower.data import tower_row_maps
from recsys.training.retrieval.two_tower.sequences import Sequences, newest_windows, training_sequences
from recsys.training.settings import override

CONFIG = override(RetrievalRunConfig(recipe="r"), ["model.kind=two_tower", "train.loss=softmax"])


def one_user(
    times: list[int],
    targets: list[tuple[int, int]],
    *,
    items: list[int] | None = None,
    arrivals: list[int] | None = None,
    max_events: int = 1000,
    max_age_s: int = 0,
) -> Interactions:
    """A user whose n-th event is of item n, unless ``items`` says another; targets are items with their moments."""
    count = len(times)
    events = UserEvents(
        user_E=np.zeros(count, dtype=np.int64),
        item_E=np.arange(count) if items is None else np.array(items),
        time_ms_E=np.array(times),
        attributes={},
        arrival_ms_E=None if arrivals is None else np.array(arrivals),
    )
    taken, moments = np.array([item for item, _ in targets]), np.array([moment for _, moment in targets])
    one = make_pairs(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    many = max(*(items or [count]), int(taken.max())) + 1
    features = FeatureSet(
        name="one",
        user_id=Categorical(name="u"),
        item_id=Categorical(name="i"),
        history=History(max_events=max_events, recent=min(50, max_events), max_age_s=max_age_s),
    )
    return Interactions(
        num_users=1,
        num_items=many,
        train=make_pairs(np.zeros(len(targets), dtype=np.int64), taken, time_ms_E=moments),
        validation=one,
        test=one,
        source="one",
        ids=PairIds(features=features, user_keys_N=np.arange(1), item_keys_M=np.arange(many)),
        histories={"validation": events, "test": events},
    )


def read_of(sequences: Sequences) -> dict[int, list[int]]:
    """Item of each target -> items of the events that are read for it, oldest first."""
    found = {}
    for k in range(len(sequences.begin_K)):
        for t in range(sequences.offsets[k], sequences.offsets[k + 1]):
            assert sequences.begin_K[k] <= sequences.last_T[t] < sequences.end_K[k]
            places = np.arange(sequences.begin_K[k], sequences.last_T[t] + 1)
            found[int(sequences.item_T[t])] = sequences.events.item_E[places].tolist()
    return found


def test_a_target_reads_the_events_before_its_moment_and_none_of_it() -> None:
    data = one_user([10, 20, 20, 30], [(7, 20), (8, 21), (9, 10), (6, 99)])
    sequences, notes = training_sequences(CONFIG, data, window=50)
    assert read_of(sequences) == {7: [0], 8: [0, 1, 2], 6: [0, 1, 2, 3]}
    assert notes == ("1 of 4 training pairs come before any other event of their user: nothing predicts them",)


def test_an_event_on_its_way_hides_itself_alone_and_is_read_in_its_place_from_its_arrival_on() -> None:
    data = one_user([10, 20, 30], [(7, 25), (8, 40), (9, 60), (6, 45)], arrivals=[10, 50, 30])
    sequences, notes = training_sequences(CONFIG, data, window=50)
    assert read_of(sequences) == {7: [0], 8: [0, 2], 6: [0, 2], 9: [0, 1, 2]}
    assert notes == (
        "2 of 4 training pairs come while an event of their user is on its way behind which others have arrived: 2 "
        "events are read once more for them",
    )


@pytest.mark.parametrize("delay_ms", [12, 60, 600], ids=str)
def test_whenever_events_arrive_a_target_reads_the_newest_that_had_arrived_and_no_other(delay_ms: int) -> None:
    random = np.random.default_rng(delay_ms)
    count, window, kept = 200, 8, 150
    times = np.sort(random.choice(3 * count, count))
    arrivals = times + np.where(random.random(count) < 0.4, random.integers(0, delay_ms, count), 0)
    moments = np.sort(random.choice(3 * count + delay_ms, count))
    targets = [(1000 + n, moment) for n, moment in enumerate(moments.tolist())]
    data = one_user(times.tolist(), targets, arrivals=arrivals.tolist(), max_events=kept)
    sequences, _ = training_sequences(CONFIG, data, window=window)
    read, hidden = read_of(sequences), 0
    for item, moment in targets:
        seen = [n for n in range(count) if times[n] < moment and arrivals[n] <= moment]  # ``rules.visible``
        hidden += seen != list(range(len(seen)))
        seen = [n for n in seen if n >= count - kept]
        own = read.get(item, [])
        assert own == seen[len(seen) - len(own) :] and min(len(seen), window // 2) <= len(own) <= window
    assert hidden > 20
    copied = len(sequences.events.user_E) - count
    assert sequences.own == count and copied <= hidden * window


def test_events_that_are_read_once_more_count_once_in_the_tables() -> None:
    data = walks()
    assert data.ids is not None
    random, late = np.random.default_rng(0), {}
    for part, of in data.histories.items():
        assert of.time_ms_E is not None
        delay_ms_E = 3_600_000 * random.integers(0, 100, len(of.user_E))
        delay_ms_E[np.unique(of.user_E, return_index=True)[1]] = 0  # each target has an event before it
        late[part] = dataclasses.replace(of, arrival_ms_E=of.time_ms_E + delay_ms_E)
    features = tower_features(FEATURES)
    config = override(CONFIG, ["rows.min_count=12"])
    assert isinstance(config.model, TwoTowerConfig)
    on_time, _ = training_sequences(config, data, window=8)
    of_late, _ = training_sequences(config, late_data := dataclasses.replace(data, histories=late), window=8)
    assert len(of_late.events.user_E) > of_late.own == len(on_time.events.user_E)
    assert len(of_late) == len(on_time)
    maps = (
        tower_row_maps(config.model, config.rows, features, data, on_time),
        tower_row_maps(config.model, config.rows, features, late_data, of_late),
    )
    keys_M = data.ids.item_keys_M
    before, after = (of["item_id"].lookup(keys_M)[:, 0] for of in maps)
    assert np.array_equal(before, after) and 0 < np.count_nonzero(before) < ITEMS


def test_a_repeated_item_is_predicted_once_from_what_came_before_the_first_of_it() -> None:
    random = np.random.default_rng(0)
    times, items = list(range(10, 90)), random.integers(0, 12, 80).tolist()
    last = {item: time for time, item in zip(times, items, strict=True)}  # what ``make_pairs`` leaves of repeats
    sequences, notes = training_sequences(CONFIG, one_user(times, list(last.items()), items=items), window=100)
    read = read_of(sequences)
    assert read == {item: items[: items.index(item)] for item in last if item != items[0]}
    assert notes == (
        f"1 of {len(last)} training pairs come before any other event of their user: nothing predicts them",
    )
    untimed = one_user(times, list(last.items()), items=items)
    events = {part: dataclasses.replace(of, time_ms_E=None) for part, of in untimed.histories.items()}
    sequences, notes = training_sequences(CONFIG, dataclasses.replace(untimed, histories=events), window=100)
    assert read_of(sequences) == read and len(sequences) == len(read)
    assert notes == (f"{80 - len(last)} events of an item that their user had before are read, but are no targets",)


def test_a_target_reads_no_event_that_was_too_old_at_its_moment_and_all_of_half_that_age() -> None:
    random = np.random.default_rng(0)
    age_ms, count = 7000, 300
    times = np.cumsum(random.choice([1, 20, 400, 1500, 9000], count, p=[0.4, 0.3, 0.2, 0.08, 0.02])).tolist()
    moments = np.sort(random.choice(times[-1], count, replace=False)).tolist()
    data = one_user(times, [(1000 + n, moment) for n, moment in enumerate(moments)], max_age_s=age_ms // 1000)
    young_E = np.array(times) >= times[-1] - age_ms  # what is left when validation begins
    cut = {part: of.where(young_E) for part, of in data.histories.items()}
    data = dataclasses.replace(data, histories={**cut, "train": data.histories["test"]})
    sequences, notes = training_sequences(CONFIG, data, window=count)
    read, gone = read_of(sequences), 0
    for n, moment in enumerate(moments):
        visible = [m for m in range(count) if moment - age_ms <= times[m] < moment]
        gone += moment > times[0] and not visible
        own = read.get(1000 + n, [])
        assert own == visible[len(visible) - len(own) :] and bool(own) == bool(visible)
        assert not [m for m in visible if times[m] >= moment - age_ms // 2 and m not in own]
    assert 0 < gone < count // 3 and len(sequences.begin_K) < count // 2
    assert notes == (
        f"{gone} of 300 training pairs come when all events of their user are older than history.max_age_s, 7 seconds: "
        "nothing predicts them",
    )


def test_windows_overlap_so_that_later_targets_read_half_a_window_or_more() -> None:
    count, window = 37, 8
    data = one_user(list(range(count)), [(100 + n, n) for n in range(1, count)])
    read = read_of(training_sequences(CONFIG, data, window=window)[0])
    assert len(read) == count - 1  # each target is in one window
    for item, places in read.items():
        moment = item - 100
        assert places == list(range(moment - len(places), moment)) and len(places) <= window
        assert len(places) >= min(moment, window // 2)


def test_of_a_user_with_very_many_events_the_newest_count() -> None:
    count, kept = 100_000, 1000
    data = one_user(list(range(count)), [(n, n) for n in range(1, count, 7)], max_events=kept)
    sequences, notes = training_sequences(CONFIG, data, window=50)
    newest = sum(n > count - kept for n in range(1, count, 7))  # of the oldest kept event nothing before it is
    assert int(sequences.begin_K.min()) == count - kept and len(sequences) == newest
    assert notes == (
        f"{14_286 - newest:,} training pairs lie before the newest 1,000 events of their user and are left out",
    )
    older, begin, end = newest_windows(sequences.events, np.array([0]), 1, window=50, long_history=200)
    assert (older.tolist(), begin.tolist(), end.tolist()) == ([count - 250], [count - 50], [count])


def test_before_each_window_stand_the_events_that_are_read_by_their_hashes_each_once() -> None:
    count, window, long_history = 100_000, 50, 10_000
    data = one_user(list(range(count)), [(n, n) for n in range(1, count, 7)], max_events=count)
    sequences, notes = training_sequences(CONFIG, data, window=window, long_history=long_history)
    assert len(sequences) == len(range(1, count, 7)) and notes == ()
    assert len(sequences.begin_K) <= 2 * count / window, "what attention reads grows with the events, not their square"
    lengths_K = sequences.begin_K - sequences.older_K
    assert np.array_equal(lengths_K, np.minimum(sequences.begin_K, long_history)) and lengths_K.max() == long_history
    short, _ = training_sequences(CONFIG, data, window=window)
    assert np.array_equal(short.older_K, short.begin_K) and np.array_equal(short.begin_K, sequences.begin_K)


def test_events_that_were_too_old_at_a_moment_are_not_read_by_their_hashes_either() -> None:
    count, age_s = 200, 40
    times = [1000 * n for n in range(count)]
    data = one_user(times, [(1000 + n, 1000 * n) for n in range(1, count)], max_age_s=age_s)
    data = dataclasses.replace(data, histories={**data.histories, "train": data.histories["test"]})
    sequences, _ = training_sequences(CONFIG, data, window=8, long_history=1000)
    assert (sequences.older_K < sequences.begin_K).any()
    for k in range(len(sequences.begin_K)):
        newest = sequences.item_T[sequences.offsets[k + 1] - 1] - 1000
        assert sequences.older_K[k] == max(0, newest - age_s) or sequences.older_K[k] == sequences.begin_K[k]


def test_pairs_without_order_are_read_in_another_one_each_time() -> None:
    data = planted()
    sequences, _ = training_sequences(CONFIG, data, window=50)
    users = len(np.unique(data.train.user_E))
    assert not sequences.ordered and len(sequences) == len(data.train) - users
    generator = torch.Generator().manual_seed(0)
    first, second = sequences.shuffled(generator), sequences.shuffled(generator)
    assert not np.array_equal(first.item_T, second.item_T)
    for each in (first, second):
        keys = each.events.user_E * 1000 + each.events.item_E
        assert np.array_equal(np.sort(keys), data.train.user_E * 1000 + data.train.item_E)
        assert np.array_equal(each.item_T, each.events.item_E[each.last_T + 1])


@pytest.mark.parametrize("size", [1, 30, 100_000])
def test_an_epoch_has_every_window_once_in_an_order_of_its_own(size: int) -> None:
    sequences, _ = training_sequences(CONFIG, walks(), window=4)
    generator = torch.Generator().manual_seed(0)
    batches = list(sequences.batches(size, generator))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(sequences.begin_K)))
    assert len(batches) <= sequences.steps(size)
    assert sequences.steps(1) == len(sequences) and sequences.steps(30) == -(-len(sequences) // 30)
    assert sequences.steps(100_000) == 16  # one step is no epoch
    if size == 30:
        counts = [int((sequences.offsets[each + 1] - sequences.offsets[each]).sum()) for each in batches]
        assert max(counts) <= 30 + 7 and not np.array_equal(
            np.concatenate(list(sequences.batches(size, generator))), np.concatenate(batches)
        )


def test_sequences_without_times_are_read_in_their_order() -> None:
    data = walks()
    events = {part: dataclasses.replace(of, time_ms_E=None) for part, of in data.histories.items()}
    timed, _ = training_sequences(CONFIG, data, window=50)
    untimed, _ = training_sequences(CONFIG, dataclasses.replace(data, histories=events), window=50)
    assert untimed.ordered and untimed.shuffled(torch.Generator()) is untimed
    for name in ("last_T", "item_T", "begin_K", "end_K"):
        assert np.array_equal(getattr(timed, name), getattr(untimed, name))


def test_pairs_of_before_since_are_read_but_are_no_targets_and_weights_stay_with_their_pairs() -> None:
    data = walks()
    fresh_E = data.train.time_ms_E >= np.median(data.train.time_ms_E)
    weight_E = (1.0 + data.train.item_E % 3).astype(np.float32)
    train = dataclasses.replace(data.train, weight_E=weight_E)
    all_of, _ = training_sequences(CONFIG, dataclasses.replace(data, train=train), window=50)
    newest, _ = training_sequences(CONFIG, dataclasses.replace(data, train=train, fresh_E=fresh_E), window=50)
    assert len(newest) < len(all_of) and np.array_equal(newest.events.item_E, all_of.events.item_E)
    fresh = data.train.user_E[fresh_E] * 1000 + data.train.item_E[fresh_E]
    assert np.isin(newest.events.user_E[newest.last_T] * 1000 + newest.item_T, fresh).all()
    assert newest.weight_T is not None and np.array_equal(newest.weight_T, 1.0 + newest.item_T % 3)
