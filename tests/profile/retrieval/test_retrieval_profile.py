"""`recsys profile --retrieval`: its searches are the server's, its lists are compared with those of scoring all."""

from __future__ import annotations

import asyncio
import io
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import HISTORY_FEATURES, tiny_tables, write_tiny_history_retrieval, write_tiny_retrieval
from support.tiny_run import folder_of_this_process

from recsys.bundle import IndexInfo
from recsys.cli.serving import profile
from recsys.errors import BundleError, ConfigError, InvalidInputError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.history.records import make_events
from recsys.operators import library
from recsys.profile.retrieval import measure
from recsys.profile.retrieval.cold import drop_pages
from recsys.profile.retrieval.measure import RetrievalProfile, profile_retrieval
from recsys.profile.retrieval.report import as_json, print_retrieval
from recsys.serving.inference.candidate_index import Retrieved

ITEMS = 400
INDEX = IndexInfo(coarse="int8", users=6, recall=1.0, effective_dimension=5.5, scanned_bytes_per_item=24)
needs_operators = pytest.mark.skipif(library() is None, reason="the operators were not compiled here")


@cache
def by_id() -> Path:
    path = folder_of_this_process() / "by_id"
    write_tiny_retrieval(path, tiny_tables(ITEMS), index=INDEX)
    return path


@cache
def by_history() -> Path:
    path = folder_of_this_process() / "by_history"
    write_tiny_history_retrieval(path, index=INDEX)
    return path


@cache
def profile_by_id() -> RetrievalProfile:
    return profile_retrieval(by_id(), top_k=5, searches=8)


def test_a_row_of_the_table_is_a_share_of_the_items_or_a_category_of_like_ones() -> None:
    passed = {row.name: row.passed for row in profile_by_id().rows}
    assert passed == {"all items": 400, "10 %": 40, "1 %": 4, "0.1 %": 1, "a category of 2%": 8}


@needs_operators
def test_the_index_finds_what_scoring_all_finds_and_says_how_many_vectors_it_read() -> None:
    for row in profile_by_id().rows:
        assert row.exact == 1.0
        assert row.wanted == 8 * min(5, row.passed)
        assert row.rows_scored is not None
        median, most = row.rows_scored
        assert min(5, row.passed) <= median <= most <= row.passed


def test_an_index_that_lacks_an_item_is_not_exact() -> None:
    def found(*pairs: tuple[int, float]) -> Retrieved:
        items, scores = zip(*pairs, strict=True)
        return Retrieved(np.array(items), np.array(scores, dtype=np.float32), True)

    expected = found((1, 3.0), (2, 2.0))
    assert measure._found(found((1, 3.0), (7, 2.0)), expected) == 2  # as good
    assert measure._found(found((1, 3.0), (7, 1.9)), expected) == 1
    assert measure._found(found((1, 3.0), (1, 3.0)), expected) == 1


def test_the_sizes_are_those_of_the_tables_and_the_dimension_that_of_the_certificate() -> None:
    found = profile_by_id()
    assert (found.items, found.dim, found.users, found.users_are) == (400, 6, 6, "users of the bundle")
    assert found.effective_dimension == 5.5
    assert found.mapped_bytes["item_id.rows"] == (400 + 1) * 6 * 4
    assert found.mapped_bytes["item_id.codes"] == (400 + 1) * 16
    assert found.private_bytes is not None or not Path("/proc/self/status").exists()


def test_a_bundle_that_knows_users_by_their_history_is_asked_about_made_ones() -> None:
    found = profile_retrieval(by_history(), top_k=3, searches=4, users=3, history=7)
    assert (found.users, found.users_are) == (3, "made users of 7 events each, drawn by popularity")
    assert [row.exact in (1.0, None) for row in found.rows] == [True] * 5


def test_users_of_a_store_are_asked_about_with_their_own_histories(redis_url: str) -> None:
    with pytest.raises(InvalidInputError, match="the store has no histories of 'tiny': fill it"):
        profile_retrieval(by_history(), redis_url=redis_url)

    async def fill() -> None:
        store = RedisFeatureStore.connect(redis_url, HISTORY_FEATURES)
        for user in (7, 8):
            events = make_events(HISTORY_FEATURES, item=[1, 2], timestamp_ms=[1_600_000_000_000, 1_600_000_001_000])
            await store.append(user, events, timeout_s=10.0)
        await store.close()

    asyncio.run(fill())
    found = profile_retrieval(by_history(), redis_url=redis_url, top_k=3, searches=4)
    assert (found.users, found.users_are) == (2, "users of the store")


@pytest.mark.parametrize(
    ("path", "given", "says"),
    [
        (by_id, {"top_k": 0}, "top_k is 0; allowed: 1 to 10,000"),
        (by_id, {"searches": 0}, "requests is 0; allowed: 1 to"),
        (by_id, {"history": 5}, "history is 5; this bundle knows users by their ids"),
        (by_id, {"redis_url": "redis://x"}, "redis_url is redis://x; this bundle knows users by their ids"),
        (by_history, {"history": 0}, "history is 0; allowed: 1 to"),
        (by_history, {"history": 5, "redis_url": "redis://x"}, "history is of made users"),
        (by_id, {"core": 4096}, "core is 4096; allowed:"),
    ],
)
def test_numbers_out_of_range_and_what_would_not_be_read_are_refused(path: Any, given: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        profile_retrieval(path(), **given)


def test_a_ranking_bundle_and_one_without_an_index_are_refused(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "ranking")
    with pytest.raises(BundleError, match="a ranking bundle; allowed: a retrieval bundle"):
        profile_retrieval(tmp_path / "ranking")
    write_tiny_retrieval(tmp_path / "earlier")
    with pytest.raises(BundleError, match="has no index: it was written by an earlier version"):
        profile_retrieval(tmp_path / "earlier")


def test_pages_that_stay_in_memory_are_no_cold_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "drop_pages", lambda file: False)
    found = profile_retrieval(by_id(), top_k=5, searches=1)
    assert all(row.cold is None for row in found.rows)
    if library() is not None:
        assert "cold: not measured" in shown(found)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell what is in memory")
def test_pages_that_are_still_read_were_not_dropped(tmp_path: Path) -> None:
    file = tmp_path / "table"
    file.write_bytes(bytes(1 << 20))  # not yet on disk: what is dirty cannot be dropped, and what is mapped neither
    mapped = np.memmap(file, np.uint8, "r+")
    mapped[:] = 1
    assert not drop_pages(file)


def shown(found: RetrievalProfile) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_retrieval(found, console)
    return console.export_text()


def test_the_report_has_a_line_for_each_filter_and_json_has_all() -> None:
    text = shown(profile_by_id())
    assert [name for name in ("all items", "10 %", "1 %", "0.1 %", "a category") if name in text] != []
    assert "effective dimension 5.5 of 6" in text
    assert json.loads(json.dumps(as_json(profile_by_id())))["rows"][0]["name"] == "all items"


def test_options_of_the_other_profile_are_refused() -> None:
    with pytest.raises(ConfigError, match="--candidates is not for --retrieval"):
        profile(by_id(), retrieval=True, candidates=5)
    with pytest.raises(ConfigError, match="--top-k is for --retrieval"):
        profile(by_id(), top_k=5)
