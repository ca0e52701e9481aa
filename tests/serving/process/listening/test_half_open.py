"""Callers that open calls and send nothing: they cost some memory for some seconds, and keep nobody from an answer."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.half_open import CHECK, DATA, RANK, STREAM, RawConnection, frame, half_open, message
from support.tiny_workers import Callers, pids, until, workers

from recsys.proto.feature_store_pb2 import AppendEventsRequest
from recsys.proto.limits import MESSAGE_BYTES
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.process.listening import grpc_server, handler_pool
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2])).SerializeToString()
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def serve(tiny_bundle: Path, redis_url: str) -> Callable[..., Any]:
    """Starts a server with these settings; gives its address."""

    @contextmanager
    def started(**more: Any) -> Iterator[str]:
        values = {"bundle": tiny_bundle, "port": 0, "redis_url": redis_url, "store_timeout_ms": 5_000, **more}
        with running_server(Settings(**values)) as server:
            yield server.address

    return started


@contextmanager
def own_channel(address: str) -> Iterator[grpc.Channel]:
    """A connection of its own."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def failure(call: Callable[..., Any], *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=20)
    return caught.value.code(), caught.value.details()


def never(start: threading.Event) -> Iterator[bytes]:
    """Messages of a caller that sends none."""
    start.wait(20)
    yield from ()


def test_calls_that_send_nothing_take_no_thread_and_keep_nobody_from_an_answer(serve: Callable[..., Any]) -> None:
    with serve(receive_timeout_s=60.0, connection_calls=1_000) as address, own_channel(address) as channel:
        rank, health = channel.unary_unary(RANK), health_pb2_grpc.HealthStub(channel)
        rank(REQUEST, timeout=20)
        threads = threading.active_count()
        paths = (RANK, STREAM, CHECK, WATCH, REFLECTION)
        with half_open(address, 1_000, paths=paths, connections=2) as flood:
            for _ in range(20):
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1
                rank(REQUEST, timeout=20)
            assert not any(connection.ended for connection in flood)
            own = len(flood)  # each reads in a thread of this process
            assert threading.active_count() - threads - own <= 3


def test_a_call_whose_message_does_not_come_is_ended_in_time_and_told_so(serve: Callable[..., Any]) -> None:
    stop = threading.Event()
    with serve(receive_timeout_s=0.3, stream_idle_timeout_s=0.3) as address, own_channel(address) as channel:
        for path, what, setting in ((RANK, "the call's", "RECEIVE_TIMEOUT"), (STREAM, "a", "STREAM_IDLE_TIMEOUT")):
            code, why = failure(channel.stream_unary(path), never(stop))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert re.fullmatch(rf"waited \d+\.\d s for {what} message, the limit \(RECSYS_{setting}_S\)", why), why
        stop.set()


def test_the_beginning_of_a_message_is_no_message(serve: Callable[..., Any]) -> None:
    with serve(receive_timeout_s=0.3) as address:
        connection = RawConnection(address)
        (number,) = connection.open(RANK, body=message(b"abc", length=1_000))
        until(lambda: connection.ended[number])
        assert b"waited" in connection.trailers[number]
        connection.close()


@pytest.mark.parametrize("path, whole", [(RANK, 0), (STREAM, 0), (STREAM, 1)])
def test_a_message_that_comes_byte_by_byte_has_no_more_time_than_another(
    serve: Callable[..., Any], path: str, whole: int
) -> None:
    append = AppendEventsRequest(user=Id(integer=1)).SerializeToString()
    with serve(receive_timeout_s=0.5, stream_idle_timeout_s=0.5) as address:
        connection = RawConnection(address)
        (number,) = connection.open(path, body=whole * message(append) + message(b"", length=1_000_000))

        def send_and_look() -> bool:
            connection.send(frame(DATA, 0, number, b"a"))
            time.sleep(0.05)
            return bool(connection.ended[number])

        until(send_and_look)
        connection.close()


def test_a_call_that_ends_without_a_message_is_an_invalid_one(serve: Callable[..., Any]) -> None:
    with serve() as address, own_channel(address) as channel:
        code, why = failure(channel.stream_unary(RANK), iter([]))
        assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message; expected: one")


def test_when_too_many_wait_the_oldest_are_ended_for_newer_ones(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "MAX_WAITING", 10)
    with serve(receive_timeout_s=60.0, stream_idle_timeout_s=50.0) as address, own_channel(address) as channel:
        connection = RawConnection(address)
        first = connection.open(RANK, 2) + connection.open(STREAM, 1)
        time.sleep(0.2)
        connection.open(RANK, 10)
        until(lambda: len(connection.ended) >= 3)
        channel.unary_unary(RANK)(REQUEST, timeout=20)
        assert set(first) <= set(connection.ended) and len(connection.ended) <= 4
        assert b"ended for a newer call" in connection.trailers[first[0]]
        connection.close()


def test_a_connection_has_only_so_many_calls(serve: Callable[..., Any]) -> None:
    with serve(receive_timeout_s=60.0, connection_calls=5) as address:
        connection = RawConnection(address)
        connection.open(RANK, 1)
        time.sleep(0.5)  # the limit holds from when the client has said that it knows it
        numbers = connection.open(RANK, 9)
        until(lambda: len(connection.ended) == 5)
        assert set(connection.ended) == set(numbers[4:])
        connection.close()


def test_a_caller_that_leaves_before_its_message_leaves_nothing_behind(serve: Callable[..., Any]) -> None:
    with serve(receive_timeout_s=60.0, connection_calls=1_000) as address, own_channel(address) as channel:
        for _ in range(3):
            with half_open(address, 300):
                time.sleep(0.2)
        channel.unary_unary(RANK)(REQUEST, timeout=20)
        until(lambda: sum(isinstance(obj, handler_pool._Arrival) for obj in _objects()) <= 5)


def _objects() -> list[object]:
    import gc

    gc.collect()
    return gc.get_objects()


def test_a_drain_does_not_wait_for_messages(serve: Callable[..., Any]) -> None:
    with serve(receive_timeout_s=60.0, drain_timeout_s=20.0) as address:
        connection = RawConnection(address)
        (number,) = connection.open(RANK)
        time.sleep(0.3)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 10
    until(lambda: connection.ended[number])
    assert b"draining" in connection.trailers[number]
    connection.close()


def test_without_the_internals_of_grpc_a_server_serves_and_says_what_is_lost(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(handler_pool._PARAMETERS, "_abort", "something else")
    with serve() as address, own_channel(address) as channel:
        assert channel.unary_unary(RANK)(REQUEST, timeout=20)
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1
    assert "calls take a thread before their message is here" in caplog.text


def test_a_message_that_is_too_long_is_refused_by_grpc_and_counted(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with serve() as address, own_channel(address) as channel:
        code, why = failure(channel.unary_unary(RANK), bytes(MESSAGE_BYTES + 1))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in why
        until(lambda: "with one that is too long" in caplog.text)


async def test_workers_that_are_full_of_calls_without_a_message_are_kept_and_serve(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    more = {"RECSYS_HANG_TIMEOUT_S": "10", "RECSYS_RECEIVE_TIMEOUT_S": "60"}
    with workers(tmp_path, tiny_bundle, redis_url, **more) as server:
        before = pids(tmp_path)
        callers = Callers(server.address, 6)
        running = [asyncio.create_task(callers.call(number)) for number in range(6)]
        with half_open(server.address, 1_600, paths=(RANK, STREAM, CHECK), connections=10):
            await asyncio.sleep(12)
            await callers.all_answered(20)
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert not any(callers.failed)
        assert pids(tmp_path) == before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert server.process.stderr is not None
        assert "hangs" not in server.process.stderr.read()


def test_an_answer_that_nobody_takes_is_given_up(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_pool, "ANSWER_TIMEOUT_S", 0.3)
    with serve() as address, own_channel(address) as channel:
        rank = channel.unary_unary(RANK)
        rank(REQUEST, timeout=20)
        connection = RawConnection(address, window=0)
        numbers = connection.open(RANK, 20, body=message(REQUEST))
        until(lambda: set(connection.ended) == set(numbers))
        rank(REQUEST, timeout=20)
        connection.close()


def test_answers_that_nobody_takes_are_given_up_when_too_much_is_kept_for_them(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grpc_server, "MAX_UNREAD_BYTES", 200)
    with serve() as address, own_channel(address) as channel:
        rank = channel.unary_unary(RANK)
        size_bytes = len(rank(REQUEST, timeout=20))
        fit = 200 // size_bytes
        assert 1 <= fit < 10
        connection = RawConnection(address, window=0)
        numbers = connection.open(RANK, 10, body=message(REQUEST))
        until(lambda: len(connection.ended) >= 10 - fit)
        rank(REQUEST, timeout=20)  # an answer may be a byte longer than another
        assert 10 - fit <= len(connection.ended) < 10 and set(connection.ended) < set(numbers)
        assert "too much is kept for them" in caplog.text
        connection.close()


@pytest.mark.parametrize("window", [0, 65_535])
def test_a_drain_does_not_wait_for_callers_that_take_no_answer_nor_for_those_that_would_stay_for_ever(
    serve: Callable[..., Any], window: int
) -> None:
    with serve(drain_timeout_s=40.0) as address:
        connection = RawConnection(address, window=window)
        connection.open(RANK, 3, body=message(REQUEST))
        connection.open(WATCH, 3, body=message(b""))
        connection.open(REFLECTION, 3, body=message(b"\x3a\x00"))  # list the services, and then nothing
        time.sleep(0.3)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 20
    connection.close()


def test_who_watches_health_often_ends_nobody_elses_watch(serve: Callable[..., Any]) -> None:
    with serve() as address, own_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == 1
        connection = RawConnection(address)
        numbers = connection.open(WATCH, 40, body=message(b""))
        until(lambda: len(connection.ended) == 40 + 1 - 32)
        assert set(connection.ended) == set(numbers[:9]) and watch.is_active()
        watch.cancel()
        connection.close()


async def test_more_callers_on_one_connection_than_it_may_have_calls_wait_their_turn(serve: Callable[..., Any]) -> None:
    with serve(connection_calls=8) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check

            async def caller() -> None:
                for _ in range(10):
                    assert (await check(health_pb2.HealthCheckRequest(), timeout=20)).status == 1

            await asyncio.gather(*(caller() for _ in range(100)))


CALLS, CONNECTIONS, FLOOD_S = 10_000, 40, 20.0
MOST_MB = 300
"""Of a worker, beyond what it takes without a flood."""


def own_mb(pid: int) -> float:
    """Memory of a process that it does not share."""
    resident, shared = (int(field) for field in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def keep_open(flood: list[RawConnection], end_s: float) -> int:
    """Open a call for each that was ended; returns how many."""
    opened, seen = 0, [0] * len(flood)
    while time.monotonic() < end_s:
        for place, connection in enumerate(flood):
            ended = len(connection.ended)
            if new := ended - seen[place]:
                connection.open((RANK, STREAM, CHECK)[place % 3], new)
                seen[place], opened = ended, opened + new
        await asyncio.sleep(0.25)
    return opened


@pytest.mark.prove
async def test_ten_thousand_half_open_calls_fail_no_call_of_others_and_no_health_check(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        before = pids(tmp_path)
        memory_mb = {pid: own_mb(pid) for pid in before}
        callers = Callers(server.address, 4)
        running = [asyncio.create_task(callers.call(number)) for number in range(4)]
        await callers.all_answered(20)
        checked = 0
        channels = [
            grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
        ]
        with half_open(server.address, CALLS, paths=(RANK, STREAM, CHECK), connections=CONNECTIONS) as flood:
            end_s = time.monotonic() + FLOOD_S
            flooding = asyncio.create_task(keep_open(flood, end_s))
            while time.monotonic() < end_s:
                for channel in channels:
                    health = health_pb2_grpc.HealthStub(channel)
                    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
                    checked += 1
                await asyncio.sleep(0.05)
            grown_mb = {pid: own_mb(pid) - memory_mb[pid] for pid in before}
            assert await flooding > CALLS / 2
        for channel in channels:
            await channel.close()
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert not any(callers.failed) and checked > 20 and sum(callers.answered) > 100
        assert pids(tmp_path) == before
        assert max(grown_mb.values()) < MOST_MB, grown_mb
