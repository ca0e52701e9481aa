"""The graph of a bundle that knows users by their history is the definition of it, on any history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import (
    HISTORY_FEATURES,
    best_by_history,
    tiny_history_tables,
    write_tiny_history_retrieval,
)

from recsys.bundle import open_bundle, read_manifest
from recsys.errors import InvalidInputError
from recsys.export.retrieval.by_history.linear.graph import HistoryTables
from recsys.features.history.records import Events, make_events
from recsys.models.retrieval.history_weights import DAY_MS, HistoryWeights
from recsys.serving.inference.candidate_index import Retrieved
from recsys.serving.inference.retrieval_session import open_retrieval

NOTHING = np.empty(0, dtype=np.int64)
NOW_MS = 1_700_000_000_000


def history(items: Sequence[int], ratings: Sequence[int | None] | None = None) -> Events:
    """An event a day, the last one now."""
    times = [NOW_MS - DAY_MS * (len(items) - 1 - place) for place in range(len(items))]
    given = [1] * len(items) if ratings is None else list(ratings)
    return make_events(HISTORY_FEATURES, item=list(items), timestamp_ms=times, attributes={"rating": given})


def found(path: Path, tables: HistoryTables, events: Events | None, seen: Sequence[int] = (), k: int = 6) -> Retrieved:
    if not path.exists():
        write_tiny_history_retrieval(path, tables)
    return open_retrieval(open_bundle(path)).retrieve(5, np.array(seen, dtype=np.int64), k, events)


def test_a_users_scores_are_those_of_the_items_of_the_history_and_their_neighbours(tmp_path: Path) -> None:
    tables = tiny_history_tables()
    for items, seen in (((3,), ()), ((3, 7, 19), (3, 7, 19)), (tuple(range(1, 21)), (4,))):
        got = found(tmp_path / "bundle", tables, history(items), seen)
        expected, scores = best_by_history(tables, dict.fromkeys(items, 1.0), seen, 6)
        assert got.items.tolist() == expected.tolist() and got.scores.tolist() == scores.tolist()
        assert (got.known, got.history_known, got.history_unknown) == (True, len(items), 0)
    assert read_manifest(tmp_path / "bundle").knows_users_by == "history"


def test_an_item_counts_once_and_one_that_is_not_known_not_at_all(tmp_path: Path) -> None:
    tables = tiny_history_tables()
    got = found(tmp_path / "bundle", tables, history([3, 99, 3, 7]))
    assert got.items.tolist() == best_by_history(tables, {3: 1.0, 7: 1.0}, (), 6)[0].tolist()
    assert (got.known, got.history_known, got.history_unknown) == (True, 3, 1)


@pytest.mark.parametrize("events", [None, history([]), history([77, 99])])
def test_who_has_no_event_of_a_known_item_gets_what_is_popular_and_is_not_known(
    events: Events | None, tmp_path: Path
) -> None:
    got = found(tmp_path / "bundle", tiny_history_tables(), events, seen=[19], k=3)
    assert got.items.tolist() == [20, 18, 17] and not got.known and got.history_known == 0
    assert got.history_unknown == (0 if events is None else len(events))


@pytest.mark.parametrize(
    "weights",
    [
        HistoryWeights(attribute="rating", actions=((5, 1.0), (1, 0.25)), other=0.5),
        HistoryWeights(half_life_events=1.0),
        HistoryWeights(half_life_days=2.0),
        HistoryWeights(attribute="rating", actions=((5, 1.0),), other=0.0, half_life_events=2.0, half_life_days=1.0),
    ],
    ids=["action", "newer", "age", "all"],
)
def test_events_weigh_as_their_action_and_recency_say(weights: HistoryWeights, tmp_path: Path) -> None:
    tables, items, ratings = tiny_history_tables(weights=weights), [3, 7, 3, 11], [5, 1, 1, None]
    action = {"rating": dict(weights.actions)}.get(weights.attribute, {})
    weight_of: dict[int, float] = {}
    for newer, item, rating in zip((3, 2, 1, 0), items, ratings, strict=True):
        weight = action.get(rating, weights.other)  # type: ignore[arg-type]
        weight *= 0.5 ** (newer / weights.half_life_events) if weights.half_life_events else 1.0
        weight *= 0.5 ** (newer / weights.half_life_days) if weights.half_life_days else 1.0
        weight_of[item] = max(weight_of.get(item, 0.0), weight)
    got = found(tmp_path / "bundle", tables, history(items, ratings))
    expected, scores = best_by_history(tables, weight_of, (), 6)
    assert got.items.tolist() == expected.tolist()
    np.testing.assert_allclose(got.scores, scores, rtol=1e-5)


def test_events_of_weight_zero_are_no_reason_to_know_a_user(tmp_path: Path) -> None:
    tables = tiny_history_tables(weights=HistoryWeights(attribute="rating", actions=((5, 1.0),), other=0.0))
    got = found(tmp_path / "bundle", tables, history([3, 7], [1, None]), k=1)
    assert got.items.tolist() == [20] and not got.known and got.history_known == 2


def test_tables_that_do_not_fit_are_refused() -> None:
    tables = tiny_history_tables()
    values = {name: getattr(tables, name) for name in tables.__dataclass_fields__}
    for name, value, message in (
        ("history_MD", tables.history_MD[:5], r"history_MD is \[5, 4\]; expected \[20, 4\]"),
        ("added_MJ", tables.added_MJ * np.float32(np.nan), "added_MJ holds numbers that are not finite"),
        ("neighbours_MJ", tables.neighbours_MJ + 5, r"neighbours_MJ is not all in \[-1, 19\]"),
        ("item_keys", np.full(20, 4), "items 4 and 4 have one key"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            HistoryTables(**{**values, name: value})
