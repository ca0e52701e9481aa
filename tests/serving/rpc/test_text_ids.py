"""String ids come back from the store's calls as the texts they were, whatever it is that knows these."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_server import Start

from recsys.client import AsyncClient, UnknownText, UserEvents
from recsys.errors import InvalidInputError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, History
from recsys.features.hashing import string_key, string_keys
from recsys.features.history.records import make_events
from recsys.proto.ranker_pb2 import Ids
from recsys.serving.rpc.convert.ids import raw_ids

TEXTS = replace(
    FEATURES,
    user_id=Categorical(name="user_id", id_type="string"),
    item_id=Categorical(name="item_id", id_type="string"),
    history=History(attributes=(Categorical(name="rating", id_type="string"),), max_events=20, recent=4),
)
NOW_MS = time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows one item and one rating."""
    path = tmp_path_factory.mktemp("bundles") / "texts"
    write_tiny_bundle(path, features=TEXTS, names={"item_id": ["from the bundle"], "rating": ["good"]})
    return path


@pytest.fixture
async def client(start: Start, bundle: Path) -> AsyncIterator[AsyncClient]:
    async with start(bundle=bundle) as client:
        yield client


@pytest.fixture
async def bare_store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    """The store, written past the server, as by an earlier version: without texts."""
    store = RedisFeatureStore.connect(redis_url, TEXTS)
    yield store
    await store.close()


async def append_by_key(store: RedisFeatureStore, items: list[str], ratings: list[str]) -> None:
    times_ms = NOW_MS + np.arange(len(items))
    events = make_events(TEXTS, item=items, timestamp_ms=times_ms, arrival_ms=times_ms, attributes={"rating": ratings})
    await store.append(string_key("ann"), events, timeout_s=5)


async def test_events_come_back_with_the_texts_they_were_sent_with(client: AsyncClient) -> None:
    times_ms = [NOW_MS, NOW_MS + 1, NOW_MS + 2]
    await client.append_events(
        user="ann", items=["七", "x", "七"], timestamps_ms=times_ms, attributes={"rating": ["bad", None, "good"]}
    )
    stream = [UserEvents(user="bob", items=["streamed"], timestamps_ms=[NOW_MS])]
    await client.append_stream(stream)
    history = await client.get_history(user="ann")
    assert history.items.tolist() == ["七", "x", "七"]
    assert history.attributes["rating"].tolist() == ["bad", None, "good"]
    bob, nobody, ann = await client.get_histories(users=["bob", "nobody", "ann"])
    assert (bob.items.tolist(), nobody.items.tolist()) == (["streamed"], [])
    assert bob.attributes["rating"].tolist() == [None]
    assert ann.items.tolist() == history.items.tolist()


async def test_an_id_without_a_known_text_is_told_from_all_others(
    client: AsyncClient, bare_store: RedisFeatureStore
) -> None:
    await append_by_key(bare_store, ["from the bundle", "put", "never told"], ["good", "bad", "good"])
    await client.put_entities(entity="item", ids=["put"], features={"price": [1.0]})
    history = await client.get_history(user="ann")
    unknown = UnknownText(string_key("never told"))
    assert history.items.tolist() == ["from the bundle", "put", unknown]
    assert history.attributes["rating"].tolist() == ["good", UnknownText(string_key("bad")), "good"]
    assert str(unknown) == f"key {string_key('never told')} (text unknown)"
    with pytest.raises(InvalidInputError, match="candidates: .*UnknownText"):
        await client.rank(user="ann", candidates=[unknown])


async def test_features_come_back_as_texts(client: AsyncClient, bare_store: RedisFeatureStore) -> None:
    await client.put_entities(entity="user", ids=["ann", "bob"], features={"tags": [["a", "七"], None]})
    bare = make_columns(TEXTS.user, {"tags": [["a", "b"]]}, length=1)
    await bare_store.put_entities("user", string_keys(["eve"]), bare, timeout_s=5)
    tags = (await client.get_features(entity="user", ids=["eve", "bob", "ann"])).columns["tags"]
    assert tags.tolist() == [["a", UnknownText(string_key("b"))], [None, None], ["a", "七"]]
    assert (await client.get_features(entity="user", ids=["bob"])).columns["tags"].tolist() == [[]]


async def test_a_users_own_id_is_kept_nowhere(client: AsyncClient, redis_admin: redis.Redis) -> None:
    await client.put_entities(entity="user", ids=["ann@example.org"], features={"tags": [["vip"]]})
    await client.append_events(user="ann@example.org", items=["x"], timestamps_ms=[NOW_MS])
    await client.put_entities(entity="shop", ids=["corner"], features={"rating": [5.0]})
    texts = {text for key in redis_admin.scan_iter("*names*") for text in redis_admin.hvals(key)}
    assert texts == {b"vip", b"x", b"corner"}


async def test_a_ranking_gives_the_texts_that_were_asked_for_and_reads_no_names(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    await client.append_events(user="ann", items=["x"], timestamps_ms=[NOW_MS])
    redis_admin.config_resetstat()
    ranking = await client.rank(user="ann", candidates=["b", "a"], top_k=1)
    assert ranking.items[0] in ("a", "b") and ranking.history_events == 1
    assert "cmdstat_hmget" not in redis_admin.info("commandstats")
    await client.get_history(user="ann")
    assert redis_admin.info("commandstats")["cmdstat_hmget"]["calls"] == 1


@pytest.mark.parametrize("ids", [Ids(integers=[1], are_keys=True), Ids(texts=["a"], are_keys=True)])
def test_keys_are_no_ids_to_ask_with(ids: Ids) -> None:
    with pytest.raises(InvalidInputError, match=r"^candidates.are_keys is set, which only answers have; send ids"):
        raw_ids("candidates", ids, TEXTS.item_id)
