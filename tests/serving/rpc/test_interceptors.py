"""Interceptors: each call passes all of them, in their order, and no call of recsys.v1 goes uncounted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.process.server import serving
from recsys.serving.process.startup import load_models
from recsys.serving.rpc.interceptors import CallCounts, Interceptor
from recsys.serving.rpc.methods import METHODS
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.families import CODES
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.totals import read_totals

RANK, STREAM = "/recsys.v1.Ranker/Rank", "/recsys.v1.FeatureStore/AppendEventStream"
REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2])).SerializeToString()


class Recording(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Appends its name and each call's method to a list."""

    def __init__(self, name: str, calls: list[tuple[str, str]]) -> None:
        self._name = name
        self._calls = calls

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method in METHODS:
            self._calls.append((self._name, details.method))
        return continuation(details)


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses Rank calls without a token, by a handler of its own."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        def refuse(message: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

        refused = details.method == RANK and ("token", "secret") not in details.invocation_metadata
        return grpc.unary_unary_rpc_method_handler(refuse) if refused else continuation(details)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return create_counter_file(tmp_path / "counts", workers=1, methods=METHODS.values())


def counted(file: Path) -> dict[tuple[str, ...], int]:
    """The calls counted so far, by method and status."""
    return {key[1:]: count for key, count in read_totals(file).counters.items() if key[0] == "requests" and count}


@pytest.fixture
def serve(tiny_bundle: Path, redis_url: str, file: Path) -> Callable[..., Any]:
    """Starts a server that counts into the file, with these interceptors; gives a channel to it."""

    @contextmanager
    def started(*interceptors: Interceptor, **more: Any) -> Iterator[grpc.Channel]:
        settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, store_timeout_ms=5_000, **more)
        with (
            load_models(settings) as loaded,
            serving(settings, *loaded, counts=file, interceptors=interceptors) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            yield channel

    return started


def status(call: Callable[..., Any], *message: Any, **options: Any) -> grpc.StatusCode:
    try:
        call(*message, timeout=20, **options)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_every_method_of_every_service_that_a_server_registers_is_counted(
    serve: Callable[..., Any], file: Path
) -> None:
    with serve() as channel:
        registered = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(registered)
        services = [pool.FindServiceByName(n) for n in registered.get_services() if n.startswith("recsys.")]
        methods = {f"/{s.full_name}/{m.name}": m for s in services for m in s.methods}
        assert len(services) == 3 and {RANK, STREAM} < set(methods)
        ended = {}
        for path, method in methods.items():
            assert not method.server_streaming, "CallCounts would have to count at the end of a stream"
            if method.client_streaming:
                ended[method.name] = status(channel.stream_unary(path), iter([]))
            else:
                ended[method.name] = status(channel.unary_unary(path), b"")
    assert len(ended) == len(methods), "two methods of one name are counted as one"
    assert counted(file) == {(name, code.name): 1 for name, code in ended.items()}


def early_ends(file: Path) -> dict[str, int]:
    """Calls that no handler had, so far, by reason."""
    return {key[1]: count for key, count in read_totals(file).counters.items() if key[0] == "early_ends" and count}


def test_messages_that_are_none_are_refused_counted_and_logged_once_in_all_services(
    serve: Callable[..., Any], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    none = b"\xff\xff\xff"
    with serve() as channel:
        health, reflection = "/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        calls = [(channel.unary_unary(RANK), none), (channel.stream_unary(STREAM), iter([none]))]
        calls.append((channel.unary_unary(health + "Check"), none))
        calls.append((lambda *a, **b: list(channel.unary_stream(health + "Watch")(*a, **b)), none))
        calls.append((lambda *a, **b: list(channel.stream_stream(reflection)(*a, **b)), iter([none])))
        assert [status(call, message) for call, message in calls] == 5 * [grpc.StatusCode.INVALID_ARGUMENT]
    assert early_ends(file) == {"malformed": 5}
    assert counted(file) == {("Rank", "INVALID_ARGUMENT"): 1, ("AppendEventStream", "INVALID_ARGUMENT"): 1}
    assert caplog.text.count("ended before a handler had it (malformed)") == 1
    assert "Traceback" not in caplog.text


def test_an_unknown_method_is_counted_and_logged(
    serve: Callable[..., Any], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve() as channel:
        for path in ("/recsys.v1.Ranker/Rnak", "/" + "x" * 1_000):
            assert status(channel.unary_unary(path), b"") is grpc.StatusCode.UNIMPLEMENTED
    assert early_ends(file) == {"unknown_method": 2}
    assert "a call of '/recsys.v1.Ranker/Rnak' ended before a handler had it (unknown_method)" in caplog.text


def test_calls_that_end_before_a_handler_has_them_are_counted_with_their_status(
    serve: Callable[..., Any], file: Path
) -> None:
    with serve() as channel:
        assert status(channel.stream_unary(RANK), iter([])) is grpc.StatusCode.INVALID_ARGUMENT
    with serve(receive_timeout_s=0.2) as channel:
        stop = threading.Event()
        assert status(channel.stream_unary(RANK), iter(stop.wait, True)) is grpc.StatusCode.DEADLINE_EXCEEDED
        stop.set()
    assert early_ends(file) == {"incomplete": 1, "late": 1}
    assert counted(file) == {("Rank", "DEADLINE_EXCEEDED"): 1}


def test_every_status_has_a_counter() -> None:
    assert set(CODES) == {code.name for code in grpc.StatusCode} and len(set(CODES)) == len(CODES)


def test_interceptors_see_every_call_unary_or_stream_in_their_order(serve: Callable[..., Any]) -> None:
    calls: list[tuple[str, str]] = []
    with serve(Recording("first", calls), Recording("second", calls)) as channel:
        for _ in range(2):
            assert status(channel.unary_unary(RANK), REQUEST) is grpc.StatusCode.OK
            assert status(channel.stream_unary(STREAM), iter([])) is grpc.StatusCode.OK
    assert calls == 2 * [("first", RANK), ("second", RANK), ("first", STREAM), ("second", STREAM)]


def test_a_call_that_an_interceptor_refuses_is_counted_with_its_status(serve: Callable[..., Any], file: Path) -> None:
    token = [("token", "secret")]
    with serve(TokenCheck()) as channel:
        rank = channel.unary_unary(RANK)
        codes = [status(rank, REQUEST, metadata=metadata) for metadata in (token, None, token, None)]
    assert codes == 2 * [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED]
    assert counted(file) == {("Rank", "OK"): 2, ("Rank", "UNAUTHENTICATED"): 2}


@pytest.fixture
def echo(file: Path) -> Iterator[grpc.Channel]:
    """A server whose Rank does what the request says, under the interceptor."""

    def rank(message: bytes, context: grpc.ServicerContext) -> bytes:
        if message == b"refuse":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if message == b"break":
            raise RuntimeError("a defect")
        return message

    def stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"".join(messages)

    ranker = {
        "Rank": grpc.unary_unary_rpc_method_handler(rank),
        "Other": grpc.unary_unary_rpc_method_handler(rank),
    }
    store = {"AppendEventStream": grpc.stream_unary_rpc_method_handler(stream)}
    services = {"recsys.v1.Ranker": ranker, "recsys.v1.FeatureStore": store, "test.Service": ranker}
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[CallCounts(Telemetry(file))])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*service) for service in services.items()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


def test_calls_are_counted_by_method_and_status(echo: grpc.Channel, file: Path) -> None:
    rank = echo.unary_unary(RANK)
    others = [echo.unary_unary(path) for path in ("/recsys.v1.Ranker/Other", "/test.Service/Rank")]
    assert [call(b"a") for call in (rank, rank, *others)] == 4 * [b"a"]
    for message, code in ((b"refuse", grpc.StatusCode.RESOURCE_EXHAUSTED), (b"break", grpc.StatusCode.UNKNOWN)):
        with pytest.raises(grpc.RpcError) as caught:
            rank(message)
        assert caught.value.code() == code
    assert echo.stream_unary(STREAM)(iter([b"x", b"y"])) == b"xy"
    with pytest.raises(grpc.RpcError):
        echo.unary_unary("/recsys.v1.Ranker/None")(b"")
    assert counted(file) == {
        ("Rank", "OK"): 2,
        ("Rank", "RESOURCE_EXHAUSTED"): 1,
        ("Rank", "UNKNOWN"): 1,
        ("AppendEventStream", "OK"): 1,
    }
