"""Writers that mean harm, or are wrong: what one sends silences no source, blanks no item, and fills no store."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from support.tiny_server import Start

from recsys.client import AsyncClient, InvalidArgument, UserEvents
from recsys.feature_store.redis.keys import history_keys
from recsys.proto.limits import OFFSET_JUMP

NOW_MS = time.time_ns() // 1_000_000
LAST = (1 << 63) - 1


def event(item: int, offset: int, **more: Any) -> dict[str, Any]:
    """One event of a source with offsets."""
    return {"user": 1, "items": [item], "timestamps_ms": [NOW_MS + item], "source": "log", "offsets": [offset], **more}


async def test_an_offset_far_ahead_is_refused_and_the_source_goes_on(client: AsyncClient) -> None:
    assert (await client.append_events(**event(1, 10))).added == 1
    problem = rf"offsets: {LAST} is more than {OFFSET_JUMP:,} beyond 10, the last one applied; .* set restart_source"
    with pytest.raises(InvalidArgument, match=problem):
        await client.append_events(**event(2, LAST))
    result = await client.append_events(**event(3, 11))
    assert (result.added, result.skipped) == (1, 0)
    assert (await client.get_history(user=1)).items.tolist() == [1, 3], "nothing of the refused call was applied"


async def test_the_first_offset_of_a_source_counts_from_zero(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match="beyond 0, as none of this source was applied yet"):
        await client.append_events(**event(1, OFFSET_JUMP + 1))
    assert (await client.append_events(**event(1, OFFSET_JUMP))).added == 1
    assert (await client.append_events(**event(2, 2 * OFFSET_JUMP))).added == 1, "as far again from the last one"


async def test_a_refused_jump_of_a_stream_refuses_its_message_alone(client: AsyncClient) -> None:
    batches = [
        UserEvents(**event(1, 1)),
        UserEvents(**event(2, LAST)),
        UserEvents(**event(3, 2)),
        UserEvents(**event(3, 2, user=2)),
    ]
    summary = await client.append_stream(batches)
    assert (summary.added, summary.rejected, summary.skipped) == (3, 1, 0)
    assert summary.rejections[0][0] == 1 and "restart_source" in summary.rejections[0][1]


async def test_what_is_left_out_for_its_offset_is_told_and_a_restart_brings_it(client: AsyncClient) -> None:
    await client.append_events(**event(1, 1_000_000))
    skipped = await client.append_events(**event(2, 5))
    assert (skipped.added, skipped.skipped) == (0, 1)
    restarted = await client.append_events(**event(2, 5, restart_source=True))
    assert (restarted.added, restarted.skipped) == (1, 0)
    assert (await client.append_events(**event(3, 6))).added == 1, "it goes on from there"
    summary = await client.append_stream([UserEvents(**event(4, 1)), UserEvents(**event(5, 7))])
    assert (summary.added, summary.skipped) == (1, 1)


async def test_a_source_that_did_jump_goes_on_by_a_restart(client: AsyncClient) -> None:
    assert (await client.append_events(**event(1, LAST - 5, restart_source=True))).added == 1
    assert (await client.append_events(**event(2, LAST - 4))).added == 1
    assert (await client.append_events(**event(3, 7))).skipped == 1


async def test_a_stream_keeps_the_order_of_restarts(client: AsyncClient) -> None:
    batches = [
        UserEvents(**event(1, 100)),
        UserEvents(**event(2, 1, restart_source=True)),
        UserEvents(**event(3, 2)),
        UserEvents(**event(4, 2)),
    ]
    summary = await client.append_stream(batches)
    assert (summary.added, summary.skipped) == (3, 1)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            {"source": "kafka:clicks/0"},
            r"source is 'kafka:clicks/0'; allowed: none that begins with kafka: or redis-st",
        ),
        ({"source": "file:/logs/a.jsonl"}, "source is 'file:/logs/a.jsonl'; allowed: none that begins with"),
        ({"source": "", "offsets": None, "restart_source": True}, "restart_source is set without a source"),
        ({"offsets": [-1]}, r"offsets\[0\] is -1; allowed: 0 or more"),
        (
            {"items": [1, 2], "timestamps_ms": [NOW_MS] * 2, "offsets": [0, LAST]},
            f"offsets: from 0 to {LAST} in one message; allowed: up to {OFFSET_JUMP:,} apart",
        ),
    ],
)
async def test_a_source_or_offset_that_none_may_send_is_refused(
    client: AsyncClient, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        await client.append_events(**{**event(1, 1), **wrong})


async def test_a_user_has_256_sources_and_the_one_unheard_of_longest_goes(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    key = history_keys("tiny", 1).offsets
    await client.append_events(**event(1, 1, source="new"))
    redis_admin.hset(key, mapping={f"s{n}": f"{7:020d} {1_600_000_000 + n}" for n in range(2, 256)})
    redis_admin.hset(key, "of before times were kept", f"{7:020d}")
    assert redis_admin.hlen(key) == 256
    for n, gone in enumerate(["of before times were kept", "s2", "s3"]):
        assert redis_admin.hexists(key, gone)
        await client.append_events(**event(10 + n, 1, source=f"more {n}"))
        assert redis_admin.hlen(key) == 256 and not redis_admin.hexists(key, gone)
    assert redis_admin.hexists(key, "new")
    assert (await client.append_events(**event(20, 8, source="s4"))).added == 1, "one that is known takes no place"
    assert redis_admin.hlen(key) == 256 and redis_admin.hexists(key, "s5")


async def test_a_put_without_any_value_is_refused_unless_it_says_clear(client: AsyncClient) -> None:
    await client.put_entities(entity="item", ids=[1, 2], features={"price": [1.0, 2.0]})
    problem = (
        "features: there is no value in any of them, and all that is stored of 2 ids would be gone; "
        "allowed: a value of price; or set clear, if that is meant"
    )
    for features in ({}, {"price": [None, None]}, {"price": [float("nan")] * 2}):
        with pytest.raises(InvalidArgument, match=problem):
            await client.put_entities(entity="item", ids=[1, 2], features=features)
    assert (await client.get_features(entity="item", ids=[1, 2])).columns["price"].tolist() == [1.0, 2.0]
    await client.put_entities(entity="item", ids=[1], features={}, clear=True)
    assert (await client.get_features(entity="item", ids=[1, 2])).columns["price"].tolist() == [0.0, 2.0]
    await client.put_entities(entity="item", ids=[1, 2], features={"price": [5.0, None]})
    assert (await client.get_features(entity="item", ids=[1, 2])).columns["price"].tolist() == [5.0, 0.0]


async def test_a_put_without_any_id_in_lists_is_none_either(client: AsyncClient) -> None:
    await client.put_entities(entity="user", ids=[1], features={"tags": [["vip"]]})
    with pytest.raises(InvalidArgument, match="allowed: a value of age, tags; or set clear"):
        await client.put_entities(entity="user", ids=[1], features={"tags": [[]]})
    assert (await client.get_features(entity="user", ids=[1])).columns["tags"].tolist() == [["vip"]]


async def test_a_time_ahead_of_the_servers_clock_is_refused(start: Start) -> None:
    async with start(future_tolerance_s=10) as client:
        for field in ("timestamps_ms", "arrivals_ms"):
            ahead = {"timestamps_ms": [NOW_MS], field: [time.time_ns() // 1_000_000 + 60_000]}
            with pytest.raises(InvalidArgument, match=rf"events\.{field}\[0\].*allowed: times from"):
                await client.append_events(user=1, items=[1], **ahead)
