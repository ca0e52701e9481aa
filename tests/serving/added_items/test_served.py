"""Items that came after training, through gRPC: put on one server, found by another, in histories, ranked, named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES as RANKED
from support.tiny_retrieval import HISTORY_FEATURES, tiny_history_tables, write_tiny_history_retrieval
from support.tiny_server import stalled

from recsys.client import Client, Retrieval, diverse, pin
from recsys.errors import BundleError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.features.hashing import string_keys
from recsys.features.number_transform import NumberTransform
from recsys.ingest.materialize import put_entities
from recsys.models.retrieval.attributes import AttributeRows, Encoding
from recsys.serving.process.releases.plan import bundle_plan
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

FEATURES = replace(HISTORY_FEATURES, item=RANKED.item)
TEXTS = replace(FEATURES, name="texts", item_id=Categorical(name="item_id", id_type="string"))
TABLES = tiny_history_tables()
WIDTH = TABLES.items_MD.shape[1]
INTERVAL_S = 0.1
T0_MS = 1_700_000_000_000


def attributes(features: FeatureSet) -> AttributeRows:
    """Rows by the price, as it is."""
    random = np.random.default_rng(3)
    return AttributeRows(
        encoding=Encoding(features=features.item, keys={}, numbers={"price": NumberTransform(kind="none")}),
        weights_PR=random.integers(-8, 8, (1, 2 * WIDTH)).astype(np.float32),
        base_R=random.integers(-8, 8, 2 * WIDTH).astype(np.float32),
    )


def row_of(price: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The definition: an item's part in a user's vector, and its own vector."""
    rows = attributes(FEATURES)
    row = price * rows.weights_PR[0] + rows.base_R
    return row[:WIDTH], row[WIDTH:]


@contextmanager
def serving(bundle: Path, redis_url: str, **more: Any) -> Iterator[Client]:
    values = {"redis_url": redis_url, "store_timeout_ms": 1_000, "added_items_interval_s": INTERVAL_S, **more}
    with (
        running_server(Settings(bundle=bundle, port=0, **values)) as server,
        Client(server.address, timeout_s=10.0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("added") / "knower"
    write_tiny_history_retrieval(path, TABLES, features=FEATURES, attributes=attributes(FEATURES))
    return path


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, bundle: Path, redis_server: EmbeddedRedis) -> Iterator[Client]:
    """A client of a server with a ranking model, too."""
    with serving(tiny_bundle, redis_server.url, retrieval=bundle) as client:
        yield client


@pytest.fixture(scope="module")
def other(client: Client, tiny_bundle: Path, bundle: Path, redis_server: EmbeddedRedis) -> Iterator[Client]:
    """A client of another server on the same store."""
    with serving(tiny_bundle, redis_server.url, retrieval=bundle) as other:
        yield other


def saw(client: Client, user: int, *items: int | str) -> None:
    times = [T0_MS + place for place in range(len(items))]
    client.append_events(user=user, items=list(items), timestamps_ms=times, arrivals_ms=times)


def all_of(client: Client, user: int, top_k: int = 10_000) -> Retrieval:
    return client.retrieve(user=user, top_k=top_k)


def until(is_so: Callable[[], Any], *, limit_s: float = 10.0) -> float:
    """Wait for something to be true; the seconds that it took."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < began_s + limit_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - began_s


def test_an_item_put_on_one_server_is_found_by_another_and_is_scored_by_its_attributes(
    client: Client, other: Client
) -> None:
    saw(client, 1, 1, 2)
    assert 5001 not in all_of(other, 1).items
    client.put_entities(entity="item", ids=[5001], features={"price": [3.0]})
    took_s = until(lambda: 5001 in all_of(other, 1).items)
    found = all_of(other, 1)
    user = TABLES.history_MD[0] + TABLES.history_MD[1]
    assert found.scores[list(found.items).index(5001)] == row_of(3.0)[1] @ user
    assert took_s < 1.0 + 2 * INTERVAL_S  # the interval and a busy machine
    client.put_entities(entity="item", ids=[5001], features={"price": [1.0]})
    until(lambda: row_of(1.0)[1] @ user in all_of(other, 1).scores)


def test_an_event_of_a_new_item_counts_in_the_next_answer(client: Client, other: Client) -> None:
    client.put_entities(entity="item", ids=[5002], features={"price": [2.0]})
    until(lambda: 5002 in all_of(other, 2).items)
    before = all_of(other, 2)
    assert not before.user_known
    saw(client, 2, 5002)
    found = all_of(other, 2)
    assert found.user_known and 5002 not in found.items  # it was seen
    scores = dict(zip(TABLES.item_keys.tolist(), (TABLES.items_MD @ row_of(2.0)[0]).tolist(), strict=True))
    assert {i: s for i, s in zip(found.items, found.scores, strict=True) if i in scores} == scores


def test_a_ranking_model_ranks_a_new_item_by_its_attributes(client: Client) -> None:
    saw(client, 3, 4)
    client.put_entities(entity="item", ids=[5003], features={"price": [7.0]})
    until(lambda: 5003 in all_of(client, 3).items)
    best = client.recommend(user=3, top_k=100, candidates=1000)
    assert 5003 in best.items and not best.degraded
    pinned = client.recommend(user=3, top_k=2, candidates=3, rules=[pin(5003, 1), diverse(0.01)])
    cosines = TABLES.items_MD @ row_of(7.0)[1] / np.linalg.norm(TABLES.items_MD, axis=1)
    retrieved = client.retrieve(user=3, top_k=3).items.tolist()
    others = {item: cosines[item - 1] for item in retrieved if item != 5003}
    assert pinned.items.tolist() == [5003, min(others, key=lambda item: others[item])], "the least like the new item"
    ranked = client.rank(user=3, candidates=[5003])
    assert best.scores[list(best.items).index(5003)] == pytest.approx(ranked.scores[0])
    client.put_entities(entity="item", ids=[5003], features={"price": [1.0]})
    until(lambda: client.rank(user=3, candidates=[5003]).scores[0] < ranked.scores[0])


def test_items_loaded_in_bulk_are_found_all(client: Client, redis_server: EmbeddedRedis) -> None:
    keys = np.arange(6000, 8000)

    async def load() -> None:
        store = RedisFeatureStore.connect(redis_server.url, RANKED)
        columns = make_columns(RANKED.item, {"price": (keys % 9 + 1.0).tolist()}, length=len(keys))
        await put_entities(store, "item", keys, columns)
        await store.close()

    saw(client, 4, 1)
    asyncio.run(load())
    until(lambda: set(keys.tolist()) <= set(all_of(client, 4).items))


def test_a_server_that_starts_has_the_items_there_are(
    client: Client, tiny_bundle: Path, bundle: Path, redis_server: EmbeddedRedis
) -> None:
    client.put_entities(entity="item", ids=[5005], features={"price": [2.0]})
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.delete("recsys:v1:tiny:item_changes")
    with serving(tiny_bundle, redis_server.url, retrieval=bundle) as restarted:
        assert 5005 in all_of(restarted, 5).items
    with serving(tiny_bundle, redis_server.url, retrieval=bundle, max_added_items=0) as without:
        assert max(all_of(without, 5).items) <= 20


def test_a_new_release_has_the_items_that_its_bundle_lacks_from_its_first_answer_on(
    tmp_path: Path, bundle: Path, client: Client, redis_server: EmbeddedRedis
) -> None:
    """Item 21 came after the first training, not after the second."""
    later = tiny_history_tables(items=25)
    write_tiny_history_retrieval(tmp_path / "later", later, features=FEATURES, attributes=attributes(FEATURES))
    client.put_entities(entity="item", ids=[21, 5010], features={"price": [2.0, 3.0]})
    saw(client, 7, 1)
    settings = Settings(bundle=bundle, port=0, redis_url=redis_server.url, store_timeout_ms=1_000)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as switched:
        before = all_of(switched, 7)
        assert before.scores[list(before.items).index(21)] == row_of(2.0)[1] @ TABLES.history_MD[0]
        server.switch.prepare(replace(bundle_plan(replace(settings, bundle=tmp_path / "later")), number=2))
        server.switch.commit(2)
        found = all_of(switched, 7)
        scores, user = dict(zip(found.items, found.scores, strict=True)), later.history_MD[0]
        assert found.model_version != before.model_version
        near = later.added_MJ[0] @ (later.neighbours_MJ[0] == 20)
        assert scores[21] == later.items_MD[20] @ user + near
        assert scores[5010] == row_of(3.0)[1] @ user


def test_new_items_stay_while_the_store_is_away_and_others_come_when_it_is_back(
    client: Client, redis_server: EmbeddedRedis
) -> None:
    client.put_entities(entity="item", ids=[5006], features={"price": [2.0]})
    until(lambda: 5006 in all_of(client, 6).items)
    with redis.Redis.from_url(redis_server.url) as admin, stalled(admin):
        assert 5006 in client.retrieve(user=6, top_k=10_000, include_seen=True).items
    client.put_entities(entity="item", ids=[5007], features={"price": [2.0]})
    until(lambda: 5007 in all_of(client, 6).items)


def test_new_items_named_by_strings_are_answered_by_name(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    names = [f"Nº {key}" for key in TABLES.item_keys]
    tables = replace(TABLES, item_keys=string_keys(names), item_names_M=names)
    write_tiny_history_retrieval(tmp_path / "knower", tables, features=TEXTS, attributes=attributes(TEXTS))
    with serving(tmp_path / "knower", redis_server.url) as client:
        client.put_entities(entity="item", ids=["new lamp"], features={"price": [2.0]})
        until(lambda: "new lamp" in all_of(client, 1).items)
        assert set(all_of(client, 1).items) == {"new lamp", *names}
        saw(client, 1, "new lamp")
        assert all_of(client, 1).user_known


def test_an_index_that_reads_other_attributes_than_the_store_has_is_refused(
    tmp_path: Path, tiny_bundle: Path, redis_server: EmbeddedRedis
) -> None:
    features = replace(FEATURES, item=(Numeric(name="price", default=1.0),))
    write_tiny_history_retrieval(tmp_path / "knower", TABLES, features=features, attributes=attributes(features))
    with (
        pytest.raises(
            BundleError, match="knows new items by their attribute 'price'.*serve two models of the same log"
        ),
        serving(tiny_bundle, redis_server.url, retrieval=tmp_path / "knower"),
    ):
        pass
