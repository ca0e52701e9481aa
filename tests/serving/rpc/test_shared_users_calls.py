"""Items and users by which users have which items, through gRPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import (
    TEXT_FEATURES,
    items_by_user,
    jaccard,
    tiny_log,
    tiny_tables,
    tiny_text_tables,
    write_tiny_retrieval,
)
from support.tiny_server import Start
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import AsyncClient, Client, InvalidArgument, NotExported
from recsys.errors import InvalidInputError
from recsys.export.retrieval.shared_users.add import SharedUsers
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

TABLES = tiny_tables(items=60)
LOG = tiny_log(TABLES, more_items=4)
WANTED = SharedUsers(neighbours=60, audience=True)
NO_VECTOR = 7
"""Its vector is zeros."""
NOT_IN_BUNDLE = 10**6 + 1


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "finder"
    write_tiny_retrieval(path, TABLES, log=LOG, shared_users=WANTED)
    return path


@pytest.fixture
async def client(start: Start, finder: Path) -> AsyncIterator[AsyncClient]:
    async with start(retrieval=finder) as client:
        yield client


def mean_jaccard(*seeds: int) -> dict[int, float]:
    """The definition, of items of the bundle."""
    every = [jaccard(LOG, seed) for seed in seeds]
    found = {item for scores in every for item in scores if item < 10**6 and item not in seeds}
    return {item: sum(scores.get(item, 0.0) for scores in every) / len(seeds) for item in found}


async def test_similar_by_users_gives_the_items_that_share_most_users_with_the_seeds(client: AsyncClient) -> None:
    near = await client.similar(items=[3, 8, 8, 10**15], top_k=12, exclude=[5, 10**14], by="users", timings=True)
    expected = mean_jaccard(3, 8)
    expected.pop(5, None)
    best = sorted(expected, key=lambda item: (-np.float32(expected[item]), item))[:12]
    assert near.items.tolist() == best and near.by == "users" and near.unknown == [10**15]
    np.testing.assert_allclose(near.scores, [expected[item] for item in best], atol=1e-6)
    assert near.model == "finder" and near.model_version and near.release and near.degraded == ()


async def test_items_without_a_vector_are_alike_by_users_unless_another_seed_has_one(client: AsyncClient) -> None:
    for seed in (NO_VECTOR, NOT_IN_BUNDLE):
        near = await client.similar(items=[seed], top_k=60)
        assert near.by == "users" and near.unknown == [] and set(near.items.tolist()) == set(mean_jaccard(seed))
        by_vectors = await client.similar(items=[seed], top_k=60, by="vectors")
        assert by_vectors.by == "vectors" and by_vectors.unknown == [seed] and len(by_vectors.items) == 0
        both = await client.similar(items=[seed, 3], top_k=60)
        assert both.by == "vectors" and both.unknown == [seed]
    nothing = await client.similar(items=[10**15])
    assert nothing.by == "vectors" and nothing.unknown == [10**15] and len(nothing.items) == 0


async def test_audience_gives_the_users_with_most_of_the_items(client: AsyncClient) -> None:
    seeds = [3, 8, 11, 11, 20, 10**15]
    found = await client.audience(items=seeds, top_k=5, timings=True)
    users = [(user, len(items & set(seeds)), len(items)) for user, items in items_by_user(LOG).items()]
    expected = sorted((each for each in users if each[1]), key=lambda each: (-each[1], each[2], each[0]))
    assert list(zip(found.users.tolist(), found.shared.tolist(), found.of.tolist(), strict=True)) == expected[:5]
    assert found.total == len(expected) and found.unknown == [10**15]
    assert found.model == "finder" and found.timings_us["retrieve"] > 0
    some = await client.audience(items=seeds, top_k=100, at_least=2)
    assert some.total == len(some.users) == sum(shared >= 2 for _, shared, _ in users)


async def test_what_is_out_of_range_is_refused_by_name(client: AsyncClient) -> None:
    for given, message in (
        ({"items": []}, "items: got 0; allowed: 1 to 100"),
        ({"items": range(101)}, "items: got 101; allowed: 1 to 100"),
        ({"items": ["a"]}, r"items\[0\]: 'item_id' is 'a'; allowed: a 64-bit integer"),
        ({"items": [1], "top_k": 0}, "top_k is 0; allowed: 1 to 10,000"),
        ({"items": [1], "top_k": 10_001}, "top_k is 10,001; allowed: 1 to 10,000"),
        ({"items": [1, 1], "at_least": 2}, "at_least is 2; allowed: 0 to 1"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await client.audience(**given)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="by is 'user': did you mean 'users'"):
        await client.similar(items=[1], by="user")


async def test_a_bundle_without_the_tables_names_the_option_that_has_them(start: Start, tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "plain", TABLES)
    async with start(retrieval=tmp_path / "plain") as client:
        with pytest.raises(NotExported, match="by: .* no lists of items by shared users: .*recsys export --neighbours"):
            await client.similar(items=[1], by="users")
        with pytest.raises(NotExported, match="which users have which items: .*recsys export --audience") as refused:
            await client.audience(items=[1])
        assert refused.value.code == "FAILED_PRECONDITION"
        assert (await client.similar(items=[1])).by == "vectors"


def test_ids_that_are_strings_come_back_as_names_of_items_and_keys_of_users(tmp_path: Path, redis_url: str) -> None:
    tables = tiny_text_tables(30)
    features = replace(TEXT_FEATURES, user_id=replace(TEXT_FEATURES.user_id, id_type="string"))
    log = tiny_log(tables)
    write_tiny_retrieval(tmp_path / "texts", tables, features=features, log=log, shared_users=WANTED)
    with running_server(Settings(bundle=tmp_path / "texts", redis_url=redis_url, port=0)) as server:
        asked = ["--items", "Nº 3,nowhere", "--top", "4", "--address", server.address]
        near = json.loads(CliRunner().invoke(app, ["similar", "--by", "users", "--json", *asked]).stdout)
        assert near["by"] == "users" and near["unknown"] == ["nowhere"] and len(near["items"]) == 4
        assert all(each["item"].startswith("Nº ") and each["item"] != "Nº 3" for each in near["items"])
        found = json.loads(CliRunner().invoke(app, ["audience", "--json", *asked]).stdout)
        with Client(server.address) as client:
            same = client.audience(items=["Nº 3"], top_k=4)
        assert [each["user_key"] for each in found["users"]] == [user.key for user in same.users] and found[
            "total"
        ] == same.total
        shown = CliRunner().invoke(app, ["audience", *asked], catch_exceptions=False)
        assert str(same.users[0]) == f"key {same.users[0].key} (text unknown)" and str(same.users[0]) in shown.stdout
        assert "no user has nowhere" in shown.stderr and f"{same.total} users in all" in shown.stderr
