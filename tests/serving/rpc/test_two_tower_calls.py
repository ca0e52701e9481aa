"""Retrieve of a ``two_tower``, through gRPC, on a real store: events, features of users and new items count at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from support.exported_walks import export_walks, exported_walks
from support.walks import ALL_ITEMS, GROUP, walks

from recsys.client import Client, Retrieval, RpcError
from recsys.data.interactions.pairs import ids_of
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.training.retrieval.two_tower.trained import load_two_tower

KEYS = ids_of(walks()).item_keys_M
HOUR_MS, T0_MS = 3_600_000, 1_700_000_000_000
NEW = 10**9


@pytest.fixture(scope="module")
def client(redis_server: EmbeddedRedis) -> Iterator[Client]:
    settings = Settings(
        bundle=exported_walks(), port=0, redis_url=redis_server.url, store_timeout_ms=1_000, added_items_interval_s=0.1
    )
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        yield client


def saw(client: Client, user: int, *items: int, after: int = 0) -> None:
    times = [T0_MS + 20 * HOUR_MS * (after + place) for place in range(len(items))]
    client.append_events(
        user=user,
        items=[int(KEYS[item]) if item < len(KEYS) else item for item in items],
        timestamps_ms=times,
        arrivals_ms=times,
        attributes={"action": [item % 3 for item in items], "group": [0] * len(items)},
    )


def scores(found: Retrieval) -> dict[int, float]:
    return dict(zip(found.items.tolist(), found.scores.tolist(), strict=True))


def test_an_event_changes_the_next_list_and_no_user_is_new(client: Client) -> None:
    first = client.retrieve(user=10**12, top_k=3)
    assert not first.user_known
    saw(client, 10**12, 10, 11, 12)
    second = client.retrieve(user=10**12, top_k=3)
    assert second.user_known and KEYS[13] in second.items and second.history_events == 3
    saw(client, 10**12, 40, after=3)
    third = client.retrieve(user=10**12, top_k=3)
    assert KEYS[41] in third.items and KEYS[13] not in third.items


def test_features_of_the_user_are_read_in_the_same_round_trip(client: Client, redis_server: EmbeddedRedis) -> None:
    saw(client, 5, 10, 11)
    plain = scores(client.retrieve(user=5, top_k=9))
    client.put_entities(entity="user", ids=[5], features={"age": [80.0], "country": [2]})
    admin = redis.Redis.from_url(redis_server.url)
    reads = []
    for _ in range(10):  # other readers of the server may fall between
        before = admin.info("stats")["total_reads_processed"]
        assert scores(client.retrieve(user=5, top_k=9)) != plain
        reads.append(admin.info("stats")["total_reads_processed"] - before)
    assert min(reads) == 2, "one is for asking"


def test_features_of_a_request_stand_in_for_the_stored_ones_and_others_are_refused(client: Client) -> None:
    saw(client, 8, 10, 11)
    client.put_entities(entity="user", ids=[8], features={"age": [80.0], "country": [2]})
    stored = scores(client.retrieve(user=8, top_k=9))
    assert scores(client.retrieve(user=8, top_k=9, features={"age": 80.0, "country": 2})) == stored
    given = scores(client.retrieve(user=8, top_k=9, features={"age": 3.0}))
    assert given != stored
    client.put_entities(entity="user", ids=[8], features={"age": [3.0], "country": [2]})
    assert scores(client.retrieve(user=8, top_k=9)) == given
    with pytest.raises(RpcError, match="unknown feature 'aeg'.*'age'"):
        client.retrieve(user=8, features={"aeg": 3.0})
    with pytest.raises(RpcError, match="age"):
        client.retrieve(user=8, features={"age": "old"})


def test_an_item_that_came_later_is_found_within_a_second(client: Client) -> None:
    group = 4
    saw(client, 6, group * GROUP - 3, group * GROUP - 2, group * GROUP - 1)
    assert NEW not in client.retrieve(user=6, top_k=ALL_ITEMS + 1).items
    client.put_entities(entity="item", ids=[NEW], features={"group": [group], "tags": [[group]], "price": [9.0]})
    began_s = time.monotonic()
    while NEW not in (found := client.retrieve(user=6, top_k=ALL_ITEMS + 1)).items:
        assert time.monotonic() - began_s < 10.0
        time.sleep(0.02)
    assert found.items.tolist().index(NEW) < 20
    saw(client, 7, NEW)
    assert client.retrieve(user=7, top_k=3).user_known, "an event of it is an event"


def test_a_long_history_is_answered_as_torch_answers(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    bundle = export_walks(tmp_path, "model.window=3", "model.long_history=40", "train.epochs=4")
    data, user = walks(), 17
    _, learner = load_two_tower(tmp_path / "run", data)
    (scores_M,) = learner.score(np.array([user]), test=True)(np.array([user])).numpy()
    events = data.histories["test"].where(data.histories["test"].user_E == user)
    assert events.time_ms_E is not None and len(events.user_E) > 3 + 3
    times = events.time_ms_E.tolist()
    settings = Settings(bundle=bundle, port=0, redis_url=redis_server.url, store_timeout_ms=1_000)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        client.append_events(
            user=1000 + user,
            items=KEYS[events.item_E].tolist(),
            timestamps_ms=times,
            arrivals_ms=times,
            attributes={name: keys_E.tolist() for name, keys_E in events.attributes.items()},
        )
        features = {name: [of[user].item()] for name, of in data.user_columns.items()}
        client.put_entities(entity="user", ids=[1000 + user], features=features)
        found = client.retrieve(user=1000 + user, top_k=20)
    assert found.history_events == len(times) and len(found.items) == 20
    of_log = found.items != NEW  # which another test put into the store
    places = np.searchsorted(KEYS, found.items[of_log])
    np.testing.assert_allclose(found.scores[of_log], scores_M[places], atol=1e-5)
