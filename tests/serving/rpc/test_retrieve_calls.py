"""Retrieve and Recommend, through gRPC, on a real store."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, Event, reference_scores, write_tiny_bundle
from support.tiny_retrieval import FEATURES as RETRIEVAL_FEATURES
from support.tiny_retrieval import TEXT_FEATURES, best_items, tiny_tables, tiny_text_tables, write_tiny_retrieval
from support.tiny_server import Start, server_process, stalled
from typer.testing import CliRunner

from recsys.bundle import Manifest
from recsys.cli import app
from recsys.client import AsyncClient, Client, InvalidArgument, NotFound
from recsys.errors import BundleError
from recsys.features.feature_set import Categorical
from recsys.features.hashing import string_keys
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

TABLES = tiny_tables(items=700)
NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retrieval") / "finder"
    write_tiny_retrieval(path, TABLES)
    return path


@pytest.fixture
async def client(start: Start, finder: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server with both models and an empty store."""
    async with start(retrieval=finder) as client:
        yield client


async def saw(client: AsyncClient, user: int, items: list[int]) -> None:
    times = [NOW_MS + place for place in range(len(items))]
    await client.append_events(user=user, items=items, timestamps_ms=times, arrivals_ms=times)


async def test_retrieve_gives_the_best_unseen_items_and_their_scores(client: AsyncClient) -> None:
    seen = best_items(TABLES, 4, [], 6)[0].tolist()
    await saw(client, 4, seen)
    found = await client.retrieve(user=4, top_k=9, exclude=[700, 10**15])
    items, scores = best_items(TABLES, 4, [*seen, 700], 9)
    assert found.items.tolist() == items.tolist() and found.scores.tolist() == scores.tolist()
    assert (found.model, found.user_known, found.history_events, found.degraded) == ("finder", True, 6, ())
    assert (await client.retrieve(user=4, top_k=6, include_seen=True)).items.tolist() == seen
    before = await client.retrieve(user=4, top_k=6, time_ms=NOW_MS + 2)
    assert before.history_events == 2 and set(seen) - set(before.items.tolist()) == set(seen[:2])


async def test_recommend_ranks_what_retrieve_finds(client: AsyncClient) -> None:
    await saw(client, 4, [1, 2])
    best = await client.recommend(user=4, top_k=5, candidates=30, features={"age": 1.0}, timings=True)
    candidates, _ = best_items(TABLES, 4, [1, 2], 30)
    scores = reference_scores(events=[Event(1), Event(2)], candidates=candidates.tolist(), age=1.0)
    order = np.argsort(-scores.astype(np.float32), kind="stable")[:5]
    assert best.items.tolist() == candidates[order].tolist()
    np.testing.assert_allclose(best.scores, scores[order], atol=1e-6)
    assert (best.model, best.retrieval_model, best.user_known, best.candidates) == ("tiny", "finder", True, 30)
    assert (best.history_events, best.degraded) == (2, ())
    assert all(best.timings_us[stage] > 0 for stage in ("retrieve", "rank_graph", "store"))
    ranking = await client.rank(user=4, candidates=best.items, features={"age": 1.0})
    np.testing.assert_allclose(ranking.scores, best.scores, atol=1e-6)
    ranking = await client.rank(user=4, candidates=candidates, top_k=5, features={"age": 1.0})
    assert ranking.items == best.items.tolist()


async def test_500_are_ranked_unless_the_server_or_the_caller_says_otherwise(
    start: Start, finder: Path, client: AsyncClient
) -> None:
    assert (await client.recommend(user=1, top_k=3)).candidates == 500
    assert (await client.recommend(user=1, top_k=600)).candidates == 600
    async with start(retrieval=finder, max_candidates=50) as small:
        assert (await small.recommend(user=1, top_k=3)).candidates == 50


async def test_a_new_user_gets_the_most_popular_items(client: AsyncClient) -> None:
    found = await client.retrieve(user=999, top_k=3)
    assert found.items.tolist() == [700, 699, 698] and not found.user_known
    best = await client.recommend(user=999, top_k=3)
    assert (best.user_known, best.candidates, len(best.items)) == (False, 500, 3)
    best = await client.recommend(user=999, top_k=2, candidates=3)
    assert set(best.items.tolist()) < {700, 699, 698} and not best.user_known


async def test_what_is_out_of_range_is_refused_by_name(client: AsyncClient) -> None:
    for call, given, message in (
        (client.retrieve, {"top_k": 0}, "top_k is 0; allowed: 1 to 10,000"),
        (client.retrieve, {"top_k": 10_001}, "top_k is 10,001; allowed: 1 to 10,000"),
        (client.recommend, {"top_k": 20, "candidates": 19}, "candidates is 19; allowed: 20 to 10,000"),
        (client.recommend, {"exclude": ["a"]}, r"exclude\[0\]: 'item_id' is 'a'; allowed: a 64-bit integer"),
        (client.retrieve, {"exclude": range(10_001)}, "exclude: got 10,001; allowed: 1 to 10,000"),
        (client.retrieve, {"time_ms": 5}, "time_ms is 5"),
        (client.recommend, {"features": {"aeg": 1.0}}, "unknown feature 'aeg': did you mean 'age'"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await call(user=1, **given)  # type: ignore[operator]
    with pytest.raises(InvalidArgument, match="user.text: 'user_id' is 'one'; allowed: a 64-bit integer"):
        await client.retrieve(user="one")
    with pytest.raises(NotFound, match="retrieval model 'fnder' is not served here: did you mean 'finder'"):
        await client.recommend(user=1, retrieval_model="fnder")


async def test_a_store_that_is_away_degrades_the_answer(start: Start, finder: Path, redis_admin: redis.Redis) -> None:
    async with start(retrieval=finder, store_timeout_ms=50) as client:
        seen = best_items(TABLES, 4, [], 3)[0].tolist()
        await saw(client, 4, seen)
        with stalled(redis_admin):
            found = await client.retrieve(user=4, top_k=3)
            best = await client.recommend(user=4, top_k=3, candidates=3)
        assert found.items.tolist() == seen and found.degraded and found.history_events == 0
        assert set(best.items.tolist()) == set(seen) and set(found.degraded) < set(best.degraded)


async def test_callers_that_leave_harm_no_neighbour(client: AsyncClient) -> None:
    async def leave(user: int) -> None:
        call = asyncio.create_task(client.recommend(user=user, top_k=10))
        await asyncio.sleep(0.001 * user)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    expected = (await client.recommend(user=2, top_k=10)).items.tolist()
    stays = [client.recommend(user=2, top_k=10) for _ in range(8)]
    answers = await asyncio.gather(*stays, *(leave(user) for user in range(1, 9)))
    assert all(answer.items.tolist() == expected for answer in answers[:8])  # type: ignore[union-attr]


async def test_a_server_without_one_of_the_models_says_so(start: Start, finder: Path, tiny_bundle: Path) -> None:
    async with start() as ranking_only:
        with pytest.raises(
            NotFound, match="this server has no retrieval model; serve one: recsys serve BUNDLE --retrieval"
        ):
            await ranking_only.retrieve(user=1)
        with pytest.raises(NotFound, match="this server has no retrieval model"):
            await ranking_only.recommend(user=1)
    async with start(bundle=finder) as retrieval_only:
        assert (await retrieval_only.retrieve(user=1, top_k=2)).items.tolist() == best_items(TABLES, 1, [], 2)[
            0
        ].tolist()
        with pytest.raises(NotFound, match="no ranking model is served here, only a retrieval model"):
            await retrieval_only.recommend(user=1)
        with pytest.raises(NotFound, match="model 'finder' has no ranking model, only one for Retrieve"):
            await retrieval_only.rank(user=1, candidates=[1])
    for bundle, retrieval, message in (
        (tiny_bundle, tiny_bundle, "a ranking bundle; expected a retrieval bundle"),
        (finder, finder, "is a retrieval bundle, and so is to be"),
    ):
        with pytest.raises(BundleError, match=message):
            async with start(bundle=bundle, retrieval=retrieval):
                pass


async def test_models_that_name_users_differently_do_not_start(start: Start, tmp_path: Path) -> None:
    others = write_retrieval_of_texts(tmp_path / "texts")
    with pytest.raises(BundleError, match=f"retrieval model '{others.model}' names users by string ids"):
        async with start(retrieval=tmp_path / "texts"):
            pass


async def test_items_named_by_strings_are_recommended_and_left_out_by_name(start: Start, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "ranking", features=replace(FEATURES, item_id=TEXT_FEATURES.item_id))
    tables = tiny_text_tables(40)
    write_tiny_retrieval(tmp_path / "finder", tables, features=TEXT_FEATURES)
    names = dict(zip(tables.item_keys.tolist(), tables.item_names_M or (), strict=True))
    seen, exclude = ["Nº 7", "Nº 14"], ["Nº 21", "never heard of"]
    async with start(bundle=tmp_path / "ranking", retrieval=tmp_path / "finder") as client:
        times = [NOW_MS, NOW_MS + 1]
        await client.append_events(user=4, items=seen, timestamps_ms=times, arrivals_ms=times)
        found = await client.retrieve(user=4, top_k=40, exclude=exclude)
        best = await client.recommend(user=4, top_k=5, candidates=30, exclude=exclude)
        expected, scores = best_items(tables, 4, string_keys([*seen, *exclude]), 40)
        assert found.items.tolist() == [names[key] for key in expected.tolist()]
        assert found.scores.tolist() == scores.tolist() and found.history_events == 2
        ranked = await client.rank(user=4, candidates=found.items[:30], top_k=5)
        assert best.items.tolist() == ranked.items and best.scores.tolist() == ranked.scores.tolist()
        assert (await client.retrieve(user=99, top_k=2)).items.tolist() == ["Nº 40", "Nº 39"]
        with pytest.raises(InvalidArgument, match=r"exclude\[0\]: 'item_id' is 7; allowed: text"):
            await client.retrieve(user=4, exclude=[7])


@pytest.mark.parametrize("command", ["retrieve", "recommend"])
def test_commands_print_names_as_they_are(command: str, tmp_path: Path, redis_url: str) -> None:
    write_tiny_bundle(tmp_path / "ranking", features=replace(FEATURES, item_id=TEXT_FEATURES.item_id))
    names = ["[bold]七人の侍[/bold]", "Nº 1"]
    made = replace(tiny_tables(2), item_keys=string_keys(names), item_names_M=names)
    write_tiny_retrieval(tmp_path / "finder", made, features=TEXT_FEATURES)
    settings = Settings(bundle=tmp_path / "ranking", retrieval=tmp_path / "finder", port=0, redis_url=redis_url)
    with running_server(settings) as server:
        arguments = [command, "--user", "5", "--address", server.address]
        table = CliRunner().invoke(app, arguments, catch_exceptions=False)
        done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert all(name in table.stdout for name in names)
    assert {row["item"] for row in json.loads(done.stdout.splitlines()[-1])["items"]} == set(names)


def write_retrieval_of_texts(path: Path) -> Manifest:
    features = replace(RETRIEVAL_FEATURES, user_id=Categorical(name="user_id", id_type="string"))
    return write_tiny_retrieval(path, features=features)


def test_workers_serve_both_models_and_count_together(tmp_path: Path, finder: Path, redis_url: str) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    variables = {
        "RECSYS_BUNDLE": str(tmp_path / "bundle"),
        "RECSYS_RETRIEVAL": str(finder),
        "RECSYS_WORKERS": "2",
        "RECSYS_METRICS_PORT": "0",
        "REDIS_URL": redis_url,
    }
    with server_process(tmp_path, **variables) as server:
        for user in range(12):
            with Client(server.address, timeout_s=10.0) as client:
                assert len(client.recommend(user=user, top_k=4).items) == 4
        page = urllib.request.urlopen(server.facts["metrics"], timeout=10).read().decode()
    assert 'recsys_requests_total{code="OK",method="Recommend"} 12.0' in page
    assert f"recsys_candidates_total {12 * 500}.0" in page
    assert 'recsys_stage_seconds_count{method="Recommend",stage="retrieve"} 12.0' in page
    assert 'recsys_stage_seconds_count{method="Rank"' not in page, "stages of what is never called are left out"
