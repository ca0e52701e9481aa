"""Several servers, each with a part of the items, give the list of one with all: by gRPC, on a real store."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.exported_walks import exported_walks
from support.filtered_shop import FOUND
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import (
    GENRE_FEATURES,
    tiny_attributes,
    tiny_history_tables,
    tiny_tables,
    write_tiny_history_retrieval,
    write_tiny_retrieval,
)
from support.walks import walks

from recsys.client import (
    AsyncShardedRetriever,
    Client,
    DeadlineExceeded,
    FilterReport,
    InvalidArgument,
    NotFound,
    Retrieval,
    RpcError,
    ShardedRetriever,
    ShardsDiffer,
    Unavailable,
    below,
    where,
)
from recsys.client.shards import _THREADS_A_SHARD, Answer, merge_shards
from recsys.data.interactions.pairs import ids_of
from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

SHARDS, T0_MS = 3, 1_700_000_000_000


@dataclass(frozen=True)
class Fleet:
    """A server of all items, and one for each shard."""

    whole: Client
    shards: ShardedRetriever
    addresses: list[str]

    def same(self, **query: Any) -> Retrieval:
        """Compare the two lists to the last bit; returns the one of the shards."""
        expected, found = self.whole.retrieve(**query), self.shards.retrieve(**query)
        assert found.items.tolist() == expected.items.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
        for name in ("model", "model_version", "user_known", "fallback", "history_events", "degraded", "shard"):
            assert getattr(found, name) == getattr(expected, name), name
        if expected.filter is not None:
            assert found.filter is not None
            assert replace(found.filter, age_ms=0) == replace(expected.filter, age_ms=0)
        assert found.missing_shards == {}
        return found


@contextmanager
def fleet(bundle: Path, redis_url: str, **more: Any) -> Iterator[Fleet]:
    values = {"port": 0, "redis_url": redis_url, "store_timeout_ms": 5_000, "added_items_interval_s": 0.1, **more}
    with ExitStack() as stack:
        whole, *parts = (
            stack.enter_context(running_server(Settings(bundle=bundle, items_shard=shard, **values))).address
            for shard in (None, *(f"{number}/{SHARDS}" for number in range(SHARDS, 0, -1)))
        )
        client = stack.enter_context(Client(whole, timeout_s=10.0))
        yield Fleet(client, stack.enter_context(ShardedRetriever(parts, timeout_s=10.0)), parts)


def until(is_so: Callable[[], Any], *, limit_s: float = 60.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards") / "finder"
    write_tiny_retrieval(path, tiny_tables(40), features=FOUND)
    return path


@pytest.fixture(scope="module")
def shop(finder: Path, redis_server: EmbeddedRedis) -> Iterator[Fleet]:
    """Users by their ids, with offers to filter by: scores are whole numbers, so that most are equal to others."""
    with fleet(finder, redis_server.url) as found:
        items = list(range(1, 40))
        found.whole.put_entities(
            entity="offer",
            ids=items,
            features={
                "category": ["shoes" if item % 2 else "boots" for item in items],
                "in_stock": [int(item % 3 != 0) for item in items],
                "labels": [[item % 5, 7] for item in items],
                "weight": [float(item) for item in items],
            },
        )
        wanted = where(in_stock=[0, 1])
        for client in (found.whole, *(Client(address, timeout_s=10.0) for address in found.addresses)):
            until(lambda: client.retrieve(user=1, top_k=1, filter=wanted).filter.passed == 39)  # noqa: B023
            if client is not found.whole:
                client.close()
        yield found


def test_the_list_is_that_of_one_server_with_its_ties_exclusions_and_filters(shop: Fleet) -> None:
    for user in (1, 4, 999):  # the last is not known
        for top_k in (1, 7, 40, 500):
            shop.same(user=user, top_k=top_k)
            shop.same(user=user, top_k=top_k, exclude=[3, 14, 15, 39, 4711])
            for wanted in (where(category="shoes"), where(in_stock=True, weight=below(9)), where(labels=3)):
                shop.same(user=user, top_k=top_k, filter=wanted)
    assert shop.same(user=999, top_k=3).fallback == "popularity"


def test_an_empty_list_says_why_as_one_server_does(shop: Fleet) -> None:
    few = where(weight=(3, 4))
    told = shop.same(user=1, top_k=5, filter=few).filter
    assert told is not None and replace(told, age_ms=0) == FilterReport(passed=2)
    left_out = shop.same(user=1, top_k=5, filter=few, exclude=[3, 4]).filter
    assert left_out is not None and (left_out.passed, left_out.reason) == (2, "left_out")
    nothing = shop.same(user=1, top_k=5, filter=where(category="boats")).filter
    assert nothing is not None and (nothing.reason, nothing.unknown_values) == ("no_item", ("category=boats",))


def test_what_one_server_refuses_the_shards_refuse(shop: Fleet) -> None:
    with pytest.raises(InvalidArgument, match="top_k is 0"):
        shop.shards.retrieve(user=1, top_k=0)
    with pytest.raises(NotFound, match="'fnder' is not served here"):
        shop.shards.retrieve(user=1, model="fnder")


def test_a_server_of_a_shard_says_so_and_recommends_nothing(finder: Path, redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    write_tiny_retrieval(tmp_path / "finder", tiny_tables(40))
    settings = Settings(
        bundle=tmp_path / "tiny", retrieval=tmp_path / "finder", items_shard="2/4", port=0, redis_url=redis_url
    )
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        found = client.retrieve(user=1, top_k=40)
        assert found.shard == (2, 4) and sorted(found.items.tolist()) == list(range(11, 21))
        with pytest.raises(NotFound, match="searches shard 2/4 of the items, and recommends none: ask Retrieve of all"):
            client.recommend(user=1)
        with pytest.raises(InvalidArgument, match="fallback is FALLBACK_TRENDING; this server searches shard 2/4"):
            client.retrieve(user=1, fallback="trending")
        assert len(client.rank(user=1, candidates=[1, 2, 3]).scores) == 3
        with pytest.raises(ShardsDiffer, match=r"the 1 servers are not one for each of 1 shards \(.*: 2/4\)"):
            ShardedRetriever([server.address], timeout_s=10.0).retrieve(user=1)


def test_a_part_of_no_items_is_said(tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    with running_server(Settings(bundle=tmp_path / "tiny", items_shard="1/2", port=0, redis_url=redis_url)):
        assert "items_shard is 1/2, and release tiny" in caplog.text


async def test_the_client_for_asyncio_gives_the_same(shop: Fleet) -> None:
    async with AsyncShardedRetriever(shop.addresses, timeout_s=10.0) as shards:
        await shards.wait_ready()
        found = await shards.retrieve(user=4, top_k=9, exclude=[2], filter=where(category="shoes"))
    expected = shop.whole.retrieve(user=4, top_k=9, exclude=[2], filter=where(category="shoes"))
    assert found.items.tolist() == expected.items.tolist()


def test_a_shard_that_is_away_is_an_error_or_said(shop: Fleet) -> None:
    addresses = [*shop.addresses[:2], "127.0.0.1:1"]
    with (
        ShardedRetriever(addresses, timeout_s=5.0) as strict,
        ShardedRetriever(addresses, timeout_s=5.0, partial=True) as partial,
    ):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            strict.retrieve(user=4, top_k=5)
        found = partial.retrieve(user=4, top_k=5)
        assert found.degraded == ("shards",) and list(found.missing_shards) == ["127.0.0.1:1"]
        # Addresses are those of shards 3 and 2: the first third of the keys lacks.
        left = shop.whole.retrieve(user=4, top_k=5, exclude=range(1, 14))
        assert found.items.tolist() == left.items.tolist()
        with pytest.raises(InvalidArgument):
            partial.retrieve(user=4, top_k=0)


def test_a_shard_that_hangs_costs_no_call_more_than_its_timeout_however_many_there_are(shop: Fleet) -> None:
    """More callers than threads: the time in which a call waits for a thread is of its timeout."""
    callers = 16 * _THREADS_A_SHARD
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        addresses = [shop.addresses[0], f"127.0.0.1:{silent.getsockname()[1]}"]
        with ShardedRetriever(addresses, timeout_s=0.5) as shards, ThreadPoolExecutor(callers) as threads:

            def seconds(caller: int) -> float:
                began_s = time.monotonic()
                with pytest.raises(RpcError):
                    shards.retrieve(user=1)
                return time.monotonic() - began_s

            assert max(threads.map(seconds, range(callers))) < 2.5


async def test_a_closed_client_says_so(shop: Fleet) -> None:
    shards, waiting = ShardedRetriever(shop.addresses), AsyncShardedRetriever(shop.addresses)
    shards.close()
    await waiting.close()
    with pytest.raises(RpcError, match="this client was closed; make another one"):
        shards.retrieve(user=1)
    with pytest.raises(RpcError, match="this client was closed; make another one"):
        await waiting.retrieve(user=1)


def test_users_by_history_and_new_items_are_as_on_one_server(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    """``linear``: what neighbours add, and items that came after training."""
    write_tiny_history_retrieval(
        tmp_path / "knower", tiny_history_tables(30), features=GENRE_FEATURES, attributes=tiny_attributes()
    )
    with fleet(tmp_path / "knower", redis_server.url) as found:
        new = [0, 31, 32, 500, 10**9]
        found.whole.put_entities(
            entity="item",
            ids=new,
            features={"genres": [[1, 2], [3], [4, 1], [2], [1]], "price": [1.0, 3.0, 9.0, 2.0, 5.0]},
        )
        found.whole.append_events(
            user=10**6, items=[4, 9, 31], timestamps_ms=[T0_MS, T0_MS + 1, T0_MS + 2], attributes={"rating": [5, 1, 3]}
        )

        def all_are_found() -> bool:
            clients = (found.whole, found.shards)
            return all(set(new) - {31} <= set(each.retrieve(user=10**6, top_k=100).items.tolist()) for each in clients)

        until(all_are_found)
        for top_k in (1, 5, 12, 100):
            assert found.same(user=10**6, top_k=top_k, exclude=[7, 500]).user_known
            found.same(user=10**6, top_k=top_k, include_seen=True)
            found.same(user=77, top_k=top_k)


def test_a_two_tower_is_as_on_one_server(redis_server: EmbeddedRedis) -> None:
    keys = ids_of(walks()).item_keys_M
    with fleet(exported_walks(), redis_server.url) as found:
        items = [int(keys[item]) for item in (10, 11, 12)]
        times = [T0_MS + place for place in range(3)]
        found.whole.append_events(
            user=10**12 + 5,
            items=items,
            timestamps_ms=times,
            arrivals_ms=times,
            attributes={"action": [0, 1, 2], "group": [0] * 3},
        )
        assert found.same(user=10**12 + 5, top_k=10, exclude=[int(keys[13])]).user_known
        found.same(user=10**12 + 6, top_k=len(keys))


def answer(shard: tuple[int, int] | None, items: list[int], scores: list[float], **more: Any) -> Retrieval:
    given = {"model": "m", "model_version": "v", "user_known": True, "history_events": 0, "degraded": (), **more}
    return Retrieval(items=np.array(items), scores=np.array(scores, dtype=np.float32), shard=shard, **given)


A, B = answer((1, 2), [1, 2], [3.0, 1.0]), answer((2, 2), [8, 9], [3.0, 2.0])


def test_equal_scores_are_in_the_order_of_the_shards_whatever_that_of_the_addresses_is() -> None:
    for answers in ({"a": A, "b": B}, {"b": B, "a": A}):
        found = merge_shards(answers, 3, partial=False)
        assert (found.items.tolist(), found.scores.tolist(), found.shard) == ([1, 8, 9], [3.0, 3.0, 2.0], None)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"a": A, "b": replace(B, model_version="w")}, r"scores of two models do not mix \(a: m v, b: m w\)"),
        ({"a": A, "b": replace(B, model="n")}, "scores of two models do not mix"),
        (
            {"a": A, "b": replace(A)},
            r"not one for each of 2 shards \(a: 1/2, b: 1/2\); set RECSYS_ITEMS_SHARD to 1/2, 2/2",
        ),
        ({"a": A, "b": replace(B, shard=None)}, r"not one for each of 2 shards \(a: 1/2, b: all\)"),
        ({"a": A, "b": replace(B, shard=(2, 3))}, "not one for each of 2 shards"),
        (
            {"a": A, "b": replace(B, user_known=False, fallback="popularity", degraded=("user",))},
            r"b knows less of the user than other shards \(its store was away\): ask again",
        ),
    ],
)
def test_answers_that_do_not_belong_together_are_refused(answers: dict[str, Answer], says: str) -> None:
    with pytest.raises(ShardsDiffer, match=says):
        merge_shards(answers, 3, partial=False)


def test_popularity_does_not_mix_with_the_models_scores() -> None:
    lost = replace(B, user_known=False, fallback="popularity", degraded=("user",), scores=np.float32([99, 98]))
    found = merge_shards({"a": A, "b": lost}, 3, partial=True)
    assert found.items.tolist() == [1, 2] and found.degraded == ("shards",)
    assert found.missing_shards == {"b": "knows less of the user than other shards (its store was away)"}


def test_an_error_of_the_caller_or_of_the_server_is_no_absence() -> None:
    for error in (NotFound("NOT_FOUND", "x"), InvalidArgument("INVALID_ARGUMENT", "x"), RpcError("INTERNAL", "x")):
        with pytest.raises(type(error)):
            merge_shards({"a": A, "b": error}, 3, partial=True)


def test_all_away_is_an_error_even_for_a_part() -> None:
    with pytest.raises(Unavailable):
        merge_shards({"a": Unavailable("UNAVAILABLE", "x"), "b": Unavailable("UNAVAILABLE", "y")}, 3, partial=True)


@pytest.mark.parametrize("addresses", [[], ["a", "a"], "a:1"])
def test_addresses_are_a_list_of_distinct_ones(addresses: Any) -> None:
    with pytest.raises(InvalidInputError, match="addresses is .*; allowed: a list of distinct addresses"):
        ShardedRetriever(addresses)
