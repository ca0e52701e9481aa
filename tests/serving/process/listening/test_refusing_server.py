"""A call that the door refuses costs neither interceptor nor handler, ends as it says, and leaves nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.half_open import RANK

from recsys.errors import OverloadedError
from recsys.proto import ranker_pb2, ranker_pb2_grpc
from recsys.proto.trailers import RETRY_TRAILER
from recsys.serving.process.listening.grpc_server import grpc_server
from recsys.serving.process.listening.refusing_server import RefusingServer
from recsys.serving.process.listening.rooms import open_rooms
from recsys.serving.settings import Settings

SHORT_S, LONG_S = 20.0, 600.0
"""Deadlines of calls that are refused, and of others: only the door knows, no clock decides."""


class Ranker(ranker_pb2_grpc.RankerServicer):
    """Answers with one score."""

    def Rank(self, message: Any, context: Any) -> Any:
        return ranker_pb2.RankResponse(scores=[1.0])


class Seen(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Notes the calls that come as far as interceptors."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        self.paths.append(details.method)
        return continuation(details)


class Server:
    """A server whose door refuses calls of less than a minute."""

    def __init__(self) -> None:
        self.seen, self.records = Seen(), list[tuple[Any, ...]]()
        self.address, self.state = "", Any

    def door(self, path: str, deadline_s: float) -> OverloadedError | None:
        return OverloadedError("no time for it", retry_after_s=0.0123) if deadline_s - time.time() < 60 else None

    def wait_until_nothing_is_left(self) -> None:
        limit_s = time.monotonic() + 60
        while self.state.rpc_states:  # type: ignore[attr-defined]
            assert time.monotonic() < limit_s
            time.sleep(0.01)


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    made, settings = Server(), Settings(bundle=folder, port=0, redis_url="redis://127.0.0.1:1")
    with ExitStack() as stack:
        rooms = stack.enter_context(open_rooms(4))
        server, port = stack.enter_context(
            grpc_server(
                settings, rooms, share_port=False, interceptors=[made.seen], certificates=None, door=made.door,
                record=lambda *record: made.records.append(record),
            )
        )  # fmt: skip
        assert isinstance(server, RefusingServer)
        ranker_pb2_grpc.add_RankerServicer_to_server(Ranker(), server)  # type: ignore[no-untyped-call]
        server.start()
        made.address, made.state = f"127.0.0.1:{port}", server._state
        yield made


def test_a_refused_call_ends_as_the_door_says_and_the_others_are_answered(tmp_path: Path) -> None:
    with started(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        rank = channel.unary_unary(RANK)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as refused:
                rank(b"no message of Rank's", timeout=SHORT_S)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused.value.details() == "no time for it"
            assert (RETRY_TRAILER, "13") in map(tuple, refused.value.trailing_metadata())
        assert server.seen.paths == []
        assert server.records == [("no_time", RANK, grpc.StatusCode.RESOURCE_EXHAUSTED, "no time for it")] * 3
        assert ranker_pb2.RankResponse.FromString(rank(b"", timeout=LONG_S)).scores == [1.0]
        assert server.seen.paths == [RANK]
        server.wait_until_nothing_is_left()


def test_the_door_has_no_say_about_a_method_that_does_not_exist(tmp_path: Path) -> None:
    with started(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/recsys.v1.Ranker/Nothing")(b"", timeout=SHORT_S)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert server.records == []


def test_callers_that_send_nothing_or_leave_are_refused_and_forgotten(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        with grpc.insecure_channel(server.address) as channel:
            silent = [channel.stream_unary(RANK).future(_nothing(), timeout=SHORT_S) for _ in range(20)]
            assert {call.code() for call in silent} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            leaving = [channel.unary_unary(RANK).future(b"", timeout=SHORT_S) for _ in range(100)]
            for call in leaving:
                call.cancel()
        server.wait_until_nothing_is_left()


def test_a_server_ends_while_its_callers_are_refused(tmp_path: Path) -> None:
    codes, enough = set[grpc.StatusCode](), threading.Event()

    def flood(address: str) -> None:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            rank = channel.unary_unary(RANK)
            while not enough.is_set() or grpc.StatusCode.UNAVAILABLE not in codes:
                calls = [rank.future(b"", timeout=SHORT_S) for _ in range(50)]
                codes.update(call.code() for call in calls)

    with started(tmp_path) as server:
        callers = [threading.Thread(target=flood, args=(server.address,), daemon=True) for _ in range(2)]
        for caller in callers:
            caller.start()
        limit_s = time.monotonic() + 60
        while len(server.records) < 200:
            assert time.monotonic() < limit_s
            time.sleep(0.01)
    enough.set()  # the server has ended, within the time of a drain: else that raises
    for caller in callers:
        caller.join(60)
    assert not server.state.rpc_states and not server.state.due  # type: ignore[attr-defined]
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def _nothing() -> Iterator[bytes]:
    threading.Event().wait(SHORT_S)
    yield from ()
