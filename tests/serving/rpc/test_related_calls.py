"""Items like given ones, through gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import redis
from support.plan_server import plan_server
from support.tiny_retrieval import TEXT_FEATURES, tiny_tables, tiny_text_tables, write_tiny_retrieval
from support.tiny_server import Start, stalled
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import AsyncClient, Client, InvalidArgument, NotExported, NotFound
from recsys.releases.served import ServedModel
from recsys.serving.item_columns import follower
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.serving.telemetry.totals import read_totals

TABLES = tiny_tables(items=60)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("related") / "finder"
    write_tiny_retrieval(path, TABLES)
    return path


@pytest.fixture
async def client(start: Start, finder: Path) -> AsyncIterator[AsyncClient]:
    async with start(retrieval=finder) as client:
        yield client


def cosines(*seeds: int) -> dict[int, float]:
    """The definition: mean cosine to the seeds, of each other item."""
    vectors = TABLES.items_MD.astype(float)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    scores = (unit @ unit[[seed - 1 for seed in seeds]].T).mean(axis=1)
    return {item: score for item, score in enumerate(scores.tolist(), start=1) if item not in seeds}


async def test_similar_gives_the_items_nearest_to_the_seeds(client: AsyncClient) -> None:
    near = await client.similar(items=[3, 8, 8], top_k=12, exclude=[5, 10**15], timings=True)
    expected = cosines(3, 8)
    del expected[5]
    np.testing.assert_allclose(near.scores, sorted(expected.values(), reverse=True)[:12], atol=1e-5)
    np.testing.assert_allclose(near.scores, [expected[item] for item in near.items.tolist()], atol=1e-5)
    assert (near.model, near.unknown) == ("finder", []) and near.model_version and near.release
    assert near.timings_us["retrieve"] > 0


async def test_seeds_that_nobody_knows_are_named_and_the_list_is_empty_if_these_are_all(client: AsyncClient) -> None:
    near = await client.similar(items=[10**15, 3], top_k=5)
    alone = await client.similar(items=[3], top_k=5)
    assert near.unknown == [10**15] and near.scores.tolist() == alone.scores.tolist()
    nothing = await client.similar(items=[10**15, 7], top_k=5)  # the vector of item 7 is zeros
    assert nothing.unknown == [10**15, 7] and len(nothing.items) == len(nothing.scores) == 0


async def test_what_is_out_of_range_is_refused_by_name(client: AsyncClient) -> None:
    for given, message in (
        ({"items": []}, "items: got 0; allowed: 1 to 100"),
        ({"items": range(101)}, "items: got 101; allowed: 1 to 100"),
        ({"items": ["a"]}, r"items\[0\]: 'item_id' is 'a'; allowed: a 64-bit integer"),
        ({"items": [1], "top_k": 0}, "top_k is 0; allowed: 1 to 10,000"),
        ({"items": [1], "exclude": range(10_001)}, "exclude: got 10,001; allowed: 1 to 10,000"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await client.similar(**given)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="retrieval model 'fnder' is not served here: did you mean 'finder'"):
        await client.similar(items=[1], model="fnder")


async def test_there_is_no_answer_without_a_retrieval_model(start: Start) -> None:
    async with start() as client:
        with pytest.raises(NotFound, match="this server has no retrieval model"):
            await client.similar(items=[1])


async def test_a_bundle_from_before_there_was_such_a_search_says_to_export_it_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.tiny_retrieval.add_similar", lambda folder, graphs, tables: (graphs, tables))
    write_tiny_retrieval(tmp_path / "old", TABLES)
    async with start(retrieval=tmp_path / "old") as client:
        with pytest.raises(NotExported, match="finds no similar items: .* export it again"):
            await client.similar(items=[1])


def test_items_named_by_strings_come_back_by_name_on_the_command_line(tmp_path: Path, redis_url: str) -> None:
    write_tiny_retrieval(tmp_path / "texts", tiny_text_tables(30), features=TEXT_FEATURES)
    with running_server(Settings(bundle=tmp_path / "texts", redis_url=redis_url, port=0)) as server:
        asked = ["similar", "--items", "Nº 3,nowhere", "--top", "4", "--address", server.address, "--json"]
        found = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
        assert found["unknown"] == ["nowhere"] and len(found["items"]) == 4
        assert all(each["item"].startswith("Nº ") and each["item"] != "Nº 3" for each in found["items"])
        shown = CliRunner().invoke(app, asked[:-1], catch_exceptions=False)
        assert "nothing is known of nowhere" in shown.stderr
        with Client(server.address) as client:
            assert client.similar(items=["Nº 3"], top_k=4).items.tolist() == [each["item"] for each in found["items"]]


async def test_a_store_that_is_away_does_not_matter(start: Start, finder: Path, redis_admin: redis.Redis) -> None:
    async with start(retrieval=finder) as client:
        with stalled(redis_admin):
            near = await client.similar(items=[3], top_k=5, timeout_s=5.0)
        assert len(near.items) == 5 and near.degraded == ()


def test_unknown_seeds_and_stored_items_that_no_list_can_have_are_counted(
    finder: Path, tiny_bundle: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_STORED_S", 0.1)
    release = PlannedRelease(name="r", ranking=tiny_bundle, retrieval=finder, slot=0)
    plan = Plan(number=1, models={"m": ServedModel(live="r")}, default="m", releases={"r": release})
    settings = Settings(port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with plan_server(plan, settings, tmp_path) as served, Client(served.address) as client:
        client.put_entities(entity="item", ids=[3, 10**9, 10**9 + 1], features={"price": [1.0, 2.0, 3.0]})
        client.similar(items=[3, 8, 10**15], top_k=2)
        until_s = time.monotonic() + 20.0
        while (counters := read_totals(served.counts).counters)["items_never_found",] != 2:
            assert time.monotonic() < until_s, counters
            time.sleep(0.1)
    assert counters["similar_seeds", "known"] == 2 and counters["similar_seeds", "unknown"] == 1
