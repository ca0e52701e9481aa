"""The record of a call: its request id, what it is refused for, what is in flight."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.current_call import CURRENT, note_refusal
from recsys.serving.logs import JsonFormatter
from recsys.serving.process.server import running_server
from recsys.serving.rpc.observation import Observation
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.totals import read_totals

RANK = "/recsys.v1.Ranker/Rank"
STREAM = "/recsys.v1.FeatureStore/AppendEventStream"
REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2])).SerializeToString()


@pytest.fixture
def channel(tiny_bundle: Path, redis_url: str) -> Iterator[grpc.Channel]:
    """To a real server."""
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with running_server(settings) as server, grpc.insecure_channel(server.address) as made:
        yield made


def request_id(trailers: Any) -> str:
    """The only one there is."""
    (found,) = [value for key, value in trailers if key == "x-request-id"]
    return str(found)


def test_every_call_has_a_request_id_the_callers_own_if_it_sent_one(channel: grpc.Channel) -> None:
    rank = channel.unary_unary(RANK)
    _, call = rank.with_call(REQUEST, timeout=20, metadata=[("x-request-id", "from/the:edge-7")])
    assert request_id(call.trailing_metadata()) == "from/the:edge-7"
    made = set()
    for _ in range(3):
        _, call = rank.with_call(REQUEST, timeout=20)
        made.add(request_id(call.trailing_metadata()))
    assert len(made) == 3 and all(re.fullmatch("[0-9a-f]{16}", each) for each in made)


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", " "])
def test_an_id_that_is_long_or_not_printable_is_not_taken_over(channel: grpc.Channel, given: str) -> None:
    _, call = channel.unary_unary(RANK).with_call(REQUEST, timeout=20, metadata=[("x-request-id", given)])
    assert re.fullmatch("[0-9a-f]{16}", request_id(call.trailing_metadata()))


def test_a_call_that_fails_has_its_request_id_beside_its_other_trailers(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RANK)(b"", timeout=20, metadata=[("x-request-id", "mine")])
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert request_id(error.trailing_metadata()) == "mine"
    stream = channel.stream_unary(STREAM)
    _, call = stream.with_call(iter([]), timeout=20, metadata=[("x-request-id", "theirs")])
    assert request_id(call.trailing_metadata()) == "theirs"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return create_counter_file(tmp_path / "counts", workers=1, methods=["Rank"])


@contextmanager
def observed(file: Path, serve: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[grpc.Channel]:
    """A gRPC server whose Rank is this function, under the interceptor."""
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[Observation(Telemetry(file))])
    handlers = {"Rank": grpc.unary_unary_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("recsys.v1.Ranker", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


def test_a_refusal_is_counted_with_its_reason_only_if_the_call_ends_so(file: Path) -> None:
    def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
        note_refusal("places")
        if message == b"refuse":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return message

    with observed(file, serve) as channel:
        rank = channel.unary_unary(RANK)
        assert rank(b"in the end there was room", timeout=20)
        with pytest.raises(grpc.RpcError):
            rank(b"refuse", timeout=20)
    counters = read_totals(file).counters
    assert counters["refused", "Rank", "places"] == 1
    assert sum(count for key, count in counters.items() if key[0] == "refused") == 1


def test_a_call_is_in_flight_until_it_ends_however_it_ends(file: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
        inside.set()
        go_on.wait(20)
        if message == b"break":
            raise RuntimeError("a defect")
        return message

    with observed(file, serve) as channel:
        for message in (b"answer", b"break"):
            inside.clear()
            go_on.clear()
            call = channel.unary_unary(RANK).future(message, timeout=20)
            assert inside.wait(20)
            assert read_totals(file).counters["calls_in_flight", "Rank"] == 1
            go_on.set()
            assert (call.exception() is None) == (message == b"answer")
            assert read_totals(file).counters["calls_in_flight", "Rank"] == 0
    assert read_totals(file).times["call_seconds", "Rank"].count == 2


def test_log_lines_of_a_call_have_its_request_id_and_others_have_none(file: Path) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, log = Keep(), logging.getLogger("recsys.test_observation")
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)

    def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
        log.warning("inside")
        return message

    with observed(file, serve) as channel:
        channel.unary_unary(RANK)(b"", timeout=20, metadata=[("x-request-id", "mine")])
    log.warning("outside")
    inside, outside = (json.loads(line) for line in lines)
    assert (inside["message"], inside["request_id"], inside["method"]) == ("inside", "mine", "Rank")
    assert outside["message"] == "outside" and "request_id" not in outside
    assert CURRENT.get() is None
