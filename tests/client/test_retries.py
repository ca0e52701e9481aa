"""A call that is refused for load is made again when the server says, if there is time; otherwise the caller learns at
once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from recsys.client import AsyncClient, Client, Overloaded
from recsys.client.retries import MOST, Retries
from recsys.proto.ranker_pb2 import RankResponse
from recsys.proto.trailers import RETRY_TRAILER


@contextmanager
def refusing(first: int, *hint: str) -> Iterator[tuple[str, list[float]]]:
    """A server that refuses so many calls, with this hint, and answers all others; its address, and when calls came."""
    came_s: list[float] = []

    def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
        came_s.append(time.monotonic())
        if len(came_s) <= first:
            context.set_trailing_metadata(tuple((RETRY_TRAILER, text) for text in hint))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "come back later")
        answer: bytes = RankResponse(scores=[0.5]).SerializeToString()
        return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = {"Rank": grpc.unary_unary_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("recsys.v1.Ranker", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", came_s
    finally:
        server.stop(None).wait()


def test_a_refused_call_is_made_again_not_before_the_server_said() -> None:
    with refusing(2, "60") as (address, came_s), Client(address, timeout_s=20.0) as client:
        assert client.rank(user=1, candidates=[1]).scores == [0.5]
    assert len(came_s) == 3
    assert came_s[1] - came_s[0] >= 0.06 and came_s[2] - came_s[1] >= 0.06


async def test_the_async_client_does_the_same() -> None:
    with refusing(2, "60") as (address, came_s):
        async with AsyncClient(address, timeout_s=20.0) as client:
            assert (await client.rank(user=1, candidates=[1])).scores == [0.5]
    assert len(came_s) == 3
    assert came_s[1] - came_s[0] >= 0.06 and came_s[2] - came_s[1] >= 0.06


@pytest.mark.parametrize(
    ("hint", "calls", "retry_after_s"),
    [
        (("10",), 1 + MOST, 0.01),
        (("20000",), 1, 20.0),  # when the timeout is over
        (("-1",), 1, None),  # gRPC's way to say never
        (("soon",), 1, None),
        ((), 1, None),
    ],
)
def test_who_is_refused_for_good_learns_it_with_the_hint(
    hint: tuple[str, ...], calls: int, retry_after_s: float | None
) -> None:
    with refusing(100, *hint) as (address, came_s), Client(address, timeout_s=10.0) as client:
        with pytest.raises(Overloaded, match="come back later") as refused:
            client.rank(user=1, candidates=[1])
        assert refused.value.retry_after_s == retry_after_s
        assert len(came_s) == calls


def test_a_call_has_one_timeout_with_all_its_repetitions() -> None:
    now_s = 100.0
    retries = Retries(1.0, clock=lambda: now_s)
    error = Overloaded("RESOURCE_EXHAUSTED", "full")
    error.retry_after_s = 0.6
    assert retries.left_s() == 1.0
    assert retries.wait_s(error) == 0.6
    now_s += 0.6
    assert retries.left_s() == pytest.approx(0.4)
    with pytest.raises(Overloaded):
        retries.wait_s(error)
