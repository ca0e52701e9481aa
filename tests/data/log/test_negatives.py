"""Drawn negatives: items that existed at the moment and that the user never took, as one list with its positives."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.column_folder import FolderWriter
from recsys.data.log.negatives import catalogue, draw, popularity, taken
from recsys.data.log.negatives.draw import lists_with_negatives
from recsys.data.log.negatives.popularity import Popularity
from recsys.data.log.negatives.random import hashed
from recsys.data.log.negatives.rule import DrawnNegatives, NegativeRule
from recsys.data.log.written_events import WrittenEvents
from recsys.errors import ConfigError

Event = tuple[int, int, int]
"""(user, time, item)."""


def log_of(events: list[Event], *, users: int = 0, items: int = 0, user_keys: list[int] | None = None) -> WrittenEvents:
    """Events as written, whose context is their number."""
    ordered = sorted(events)
    user, time, item = (np.array([e[n] for e in ordered], dtype=np.int64) for n in range(3))
    users = max(users, int(user.max(initial=-1)) + 1)
    items = max(items, int(item.max(initial=-1)) + 1)
    return WrittenEvents(
        user_keys=np.arange(users, dtype=np.int64) + 1000 if user_keys is None else np.array(user_keys),
        item_keys=np.arange(items, dtype=np.int64) + 7,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users))]).astype(np.int64),
        item=item.astype(np.int32),
        time_ms=time,
        context={"page": np.arange(len(ordered), dtype=np.int64)},
    )


Row = tuple[int, int, int, int, int]
"""(user, time, item, label, context)."""


def drawn_rows(
    folder: Path, events: WrittenEvents, rule: NegativeRule, positives: list[int] | None = None
) -> tuple[list[Row], DrawnNegatives]:
    folder.mkdir(exist_ok=True)
    counts, scratch = DrawnNegatives(rule=rule), FolderWriter(folder)
    rows: list[Row] = []
    try:
        chosen = None if positives is None else np.array(positives, dtype=np.int64)
        for shown, label in lists_with_negatives(events, chosen, scratch=scratch, drawn=counts):
            columns: list[Any] = [shown.user, shown.time_ms, shown.item, label, shown.context["page"]]
            rows += list(zip(*(c.tolist() for c in columns), strict=True))
    finally:
        scratch.close()
    return rows, counts


def check(events: WrittenEvents, rule: NegativeRule, positives: list[int], rows: list[Row]) -> int:
    """The definition, by brute force; returns how many lists are short."""
    user_of = np.searchsorted(events.offsets, np.arange(len(events)), side="right") - 1
    log = list(zip(user_of.tolist(), events.time_ms.tolist(), events.item.tolist(), strict=True))
    first: dict[int, int] = {}
    took: dict[int, set[int]] = {}
    for user, time, item in log:
        first[item] = min(time, first.get(item, time))
        took.setdefault(user, set()).add(item)
    assert rows == sorted(rows, key=lambda row: row[:3])
    wanted = itertools.groupby(positives, key=lambda position: log[position][:2])
    found = itertools.groupby(rows, key=lambda row: row[:2])
    short = 0
    for (moment, positions), (shown, group) in itertools.zip_longest(wanted, found):
        assert moment == shown
        user, time = moment
        own, listed = list(positions), list(group)
        ones = [(item, page) for _, _, item, label, page in listed if label == 1]
        zeros = [(item, page) for _, _, item, label, page in listed if label == 0]
        assert sorted(ones) == sorted((log[position][2], position) for position in own)
        free = {item for item in first if first[item] <= time and item not in took[user]}
        assert len(zeros) == min(rule.per_positive * len(own), len(free))
        assert {item for item, _ in zeros} <= free and len({item for item, _ in zeros}) == len(zeros)
        pages = Counter(page for _, page in zeros)  # the context of a positive; spread evenly
        assert set(pages) <= set(own) and all(count <= rule.per_positive for count in pages.values())
        short += len(zeros) < rule.per_positive * len(own)
    return short


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=60),
    per_positive=st.integers(1, 6),
    by=st.sampled_from(["uniform", "popularity"]),
    seed=st.integers(0, 3),
    every=st.integers(1, 3),
)
def test_a_list_has_its_positives_and_items_that_existed_and_that_the_user_never_took(
    events: list[Event],
    per_positive: int,
    by: str,
    seed: int,
    every: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    log = log_of(events)
    rule = NegativeRule(per_positive=per_positive, by=by, seed=seed)
    positives = list(range(0, len(log), every))
    rows, counts = drawn_rows(tmp_path_factory.mktemp("draws"), log, rule, None if every == 1 else positives)
    short = check(log, rule, positives, rows)
    assert counts.short_moments == short and len(counts.warnings()) == 1 + bool(short)
    assert (counts.positives, counts.negatives) == (len(positives), len(rows) - len(positives))
    assert counts.moments == len({row[:2] for row in rows})


def busy_log(*, users: int = 40, items: int = 60, events: int = 600) -> list[Event]:
    random = np.random.default_rng(5)
    rows = zip(*(random.integers(0, limit, events) for limit in (users, 500, items)), strict=True)
    return [(int(user), int(time), int(item)) for user, time, item in rows]


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_the_size_of_a_block_changes_nothing(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, rule = log_of(busy_log()), NegativeRule(per_positive=5, by=by, seed=3)
    expected = drawn_rows(tmp_path / "one", log, rule)
    for number, rows in enumerate((1, 17, 64)):
        monkeypatch.setattr(draw, "_BLOCK_ROWS", rows)
        for module in (catalogue, popularity, taken):
            monkeypatch.setattr(module, "_CHUNK", rows)
        assert drawn_rows(tmp_path / str(number), log, rule) == expected


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_another_seed_draws_others_and_the_same_seed_the_same(by: str, tmp_path: Path) -> None:
    log = log_of(busy_log())
    draws = [
        drawn_rows(tmp_path / str(number), log, NegativeRule(per_positive=5, by=by, seed=seed))[0]
        for number, seed in enumerate((1, 1, 2))
    ]
    assert draws[0] == draws[1] != draws[2]
    same = sum(a == b for a, b in zip(draws[0], draws[2], strict=True))
    assert same < len(draws[0]) / 2  # the positives, and what chance repeats


def test_a_user_who_took_other_items_keeps_the_draws_of_the_others(tmp_path: Path) -> None:
    events = busy_log(users=20)
    rule = NegativeRule(per_positive=4)
    alone = drawn_rows(tmp_path / "a", log_of(events), rule)[0]
    # One more user, in the middle, whose events are later: no item is older for it.
    moved = [(user + (user >= 7), time, item) for user, time, item in events]
    moved += [(7, 900, item) for item in range(30)]
    keys = [n + 1000 if n < 7 else 1 if n == 7 else n + 999 for n in range(21)]
    more = drawn_rows(tmp_path / "b", log_of(moved, user_keys=keys), rule)[0]
    kept = [(user - (user > 7), *rest) for user, *rest in more if user != 7]
    assert [row[:4] for row in kept] == [row[:4] for row in alone]


def test_every_item_that_existed_is_drawn_equally_often(tmp_path: Path) -> None:
    # 2,000 users take item 0 at time 10, when 1 to 20 exist; 21 to 30 come later.
    events = [(0, 1, item) for item in range(21)] + [(0, 99, item) for item in range(21, 31)]
    events += [(user, 10, 0) for user in range(1, 2001)]
    rows, _ = drawn_rows(tmp_path / "s", log_of(events), NegativeRule(per_positive=4))
    drawn = Counter(item for user, _, item, label, _ in rows if user and not label)
    assert set(drawn) == set(range(1, 21))
    # Binomial: 2,000 lists with a fifth of the items each: 400 +- 18.
    assert all(abs(count - 400) < 5 * 18 for count in drawn.values())


@pytest.mark.parametrize("few", [False, True])
def test_popular_items_are_drawn_in_proportion_to_their_events_up_to_the_moment(few: bool, tmp_path: Path) -> None:
    # Up to time 10: item 1 four times, 2 three, 3 two, 4 one. Later item 4 becomes the most popular by far.
    events = [(9, n, item) for item, times in ((1, 4), (2, 3), (3, 2), (4, 1)) for n in range(times)]
    events += [(9, 1000 + n, 4) for n in range(500)] + [(9, 0, 5)] * 1
    users = 100 if few else 3000
    events += [(user, 10, 0) for user in range(10, 10 + users)]
    log = log_of(events)
    scratch_folder = tmp_path / "levels"
    scratch_folder.mkdir()
    scratch = FolderWriter(scratch_folder)
    source = Popularity(log, scratch)
    count = 20_000
    items, fits = source.draw(np.full(count, 9), hashed(7, np.arange(count)))
    scratch.close()
    assert fits.mean() > 0.5
    drawn = Counter(items[fits].tolist())
    total = sum(drawn.values())
    assert set(drawn) == {1, 2, 3, 4, 5}
    for item, events_before in ((1, 4), (2, 3), (3, 2), (4, 1), (5, 1)):
        share = events_before / 11
        assert abs(drawn[item] / total - share) < 5 * np.sqrt(share * (1 - share) / total), item


def test_early_moments_of_a_long_log_are_drawn_from_the_few_events_before(tmp_path: Path) -> None:
    log = log_of([(user, time, (time * 7 + user) % 50) for user in range(20) for time in range(500)])
    scratch = FolderWriter(tmp_path)
    source = Popularity(log, scratch)
    for time in (0, 1, 3, 20, 100, 400, 499):
        items, fits = source.draw(np.full(4000, time), hashed(time, np.arange(4000)))
        assert fits.mean() > 0.45, time
        assert set(items[fits].tolist()) <= set(log.item[log.time_ms <= time].tolist())
    scratch.close()


def test_users_who_took_nearly_everything_get_what_is_left_and_it_is_said(tmp_path: Path) -> None:
    events = [(0, 5, item) for item in range(10)] + [(1, 6, item) for item in range(9)] + [(2, 6, 3)]
    rows, counts = drawn_rows(tmp_path / "s", log_of(events), NegativeRule(per_positive=2))
    zeros = {user: sorted(item for u, _, item, label, _ in rows if u == user and not label) for user in range(3)}
    assert zeros[0] == [] and zeros[1] == [9] and len(zeros[2]) == 2
    assert counts.warnings()[1:] == [
        "2 of 3 lists, of 2 users, have fewer than 2 negatives for a positive: these users took nearly all items that "
        "existed then"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_positive": 0}, "negatives is 0; allowed: 1 to 1000"),
        ({"per_positive": 1001}, "negatives is 1001"),
        ({"per_positive": 1, "by": "popular"}, "negatives by 'popular': did you mean 'popularity'"),
        ({"per_positive": 1, "seed": -1}, "the seed of the negatives is -1"),
    ],
)
def test_a_rule_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NegativeRule(**options)
