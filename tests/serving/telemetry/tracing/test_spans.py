"""Traces of a real server, as a collector gets them over OTLP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="recsys[otel] is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from support.metrics_page import page_series, total
from support.otlp_collector import Collector, attributes_of, otlp_collector
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process

from recsys.client import Client
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest

RANK = "recsys.v1.Ranker/Rank"
REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2, 3])).SerializeToString()
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-00")
SERVER, CLIENT, INTERNAL = 2, 3, 1
"""Kinds of spans in OTLP."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_collector() as found:
        yield found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(path)
    return path


@pytest.fixture(scope="module")
def server(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis, collector: Collector
) -> Iterator[ServerProcess]:
    """A server of its own accord traces nothing: only what a caller has sampled."""
    settings = {"RECSYS_BUNDLE": str(bundle), "REDIS_URL": redis_server.url, "RECSYS_METRICS_PORT": "0"}
    settings |= {"RECSYS_STORE_TIMEOUT_MS": "5000", "RECSYS_TRACE_SHARE": "0"}
    settings |= {"RECSYS_TRACE_ENDPOINT": collector.endpoint, "OTEL_RESOURCE_ATTRIBUTES": "deployment=test"}
    with server_process(tmp_path_factory.mktemp("server"), **settings) as running:
        yield running


def rank(address: str, *metadata: tuple[str, str], request: bytes = REQUEST) -> None:
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{RANK}")(request, timeout=20, metadata=metadata)


def test_a_call_its_stages_and_its_round_trip_are_one_trace_with_real_times(
    server: ServerProcess, collector: Collector
) -> None:
    began_ns, before = time.time_ns(), len(collector.named(RANK))
    rank(server.address, SAMPLED, ("x-request-id", "mine"))
    ended_ns = time.time_ns()
    (call,) = collector.wait_for(before + 1, RANK)[before:]
    assert (call.kind, call.trace_id.hex(), call.parent_span_id.hex()) == (SERVER, TRACE, SPAN)
    assert began_ns <= call.start_time_unix_nano < call.end_time_unix_nano <= ended_ns
    facts = attributes_of(call)
    assert facts["recsys.request_id"] == "mine" and facts["rpc.response.status_code"] == "OK"
    assert (facts["recsys.model"], facts["recsys.candidates"], facts["recsys.degraded"]) == ("tiny", 3, [])
    with collector.lock:
        spans = {s.span_id: s for _, s in collector.spans if s.trace_id == call.trace_id}
    stages = [s for s in spans.values() if s.parent_span_id == call.span_id]
    names = {s.name for s in stages}
    assert {
        f"recsys.{stage}" for stage in ("convert", "store", "encode", "user_graph", "rank_graph", "select")
    } <= names
    assert all(s.kind == INTERNAL for s in stages)
    for stage in stages:
        assert call.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= call.end_time_unix_nano
    (store,) = [s for s in stages if s.name == "recsys.store"]
    # A call may need several round trips.
    redis = next(s for s in spans.values() if s.name == "redis" and s.parent_span_id == store.span_id)
    assert redis.kind == CLIENT
    assert (
        store.start_time_unix_nano <= redis.start_time_unix_nano < redis.end_time_unix_nano <= store.end_time_unix_nano
    )
    assert attributes_of(redis)["db.system.name"] == "redis"


def test_the_server_says_who_it_is_and_the_environment_may_say_more(
    server: ServerProcess, collector: Collector
) -> None:
    before = len(collector.named(RANK))
    rank(server.address, SAMPLED)
    collector.wait_for(before + 1, RANK)
    with collector.lock:
        resource = collector.spans[-1][0]
    assert resource["service.name"] == "recsys" and resource["deployment"] == "test"


def test_no_span_names_a_user_or_an_item(server: ServerProcess, collector: Collector) -> None:
    user, item = 918_273_645, 546_372_819
    request = RankRequest(user=Id(integer=user), candidates=Ids(integers=[item])).SerializeToString()
    before = len(collector.named(RANK))
    rank(server.address, SAMPLED, request=request)
    collector.wait_for(before + 1, RANK)
    with collector.lock:
        text = "".join(str(found) for found in collector.spans)
    assert str(user) not in text and str(item) not in text


def test_the_caller_decides_and_a_malformed_header_counts_as_none(server: ServerProcess, collector: Collector) -> None:
    before = len(collector.named(RANK))
    for header in (UNSAMPLED, ("traceparent", "nonsense"), ("traceparent", "00-0-0-01"), ("other", "1")):
        rank(server.address, header)
    rank(server.address, SAMPLED)
    collector.wait_for(before + 1, RANK)
    time.sleep(1.5)  # longer than a span waits
    assert len(collector.named(RANK)) == before + 1


def test_a_call_that_fails_is_an_error_only_if_it_is_the_servers_fault(
    server: ServerProcess, collector: Collector
) -> None:
    before = len(collector.named(RANK))
    with pytest.raises(grpc.RpcError):
        rank(server.address, SAMPLED, request=RankRequest(user=Id(integer=1)).SerializeToString())
    (call,) = collector.wait_for(before + 1, RANK)[before:]
    assert attributes_of(call)["rpc.response.status_code"] == "INVALID_ARGUMENT" and call.status.code == 0


def test_the_python_client_sends_its_programs_current_span(server: ServerProcess, collector: Collector) -> None:
    tracer = TracerProvider().get_tracer("test")
    before = len(collector.named(RANK))
    with Client(server.address, timeout_s=20) as client:
        with tracer.start_as_current_span("page") as page:
            client.rank(user=1, candidates=[1, 2])
            mine = page.get_span_context()
        client.rank(user=1, candidates=[1, 2])  # outside of it
    (call,) = collector.wait_for(before + 1, RANK)[before:]
    assert call.trace_id.hex() == trace.format_trace_id(mine.trace_id)
    assert call.parent_span_id.hex() == trace.format_span_id(mine.span_id)


def test_spans_are_counted_as_sent(server: ServerProcess, collector: Collector) -> None:
    rank(server.address, SAMPLED)
    deadline_s = time.monotonic() + 20
    while True:
        series = page_series(server.facts["metrics"])
        if total(series, "recsys_spans_total", outcome="sent") > 0:
            break
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert total(series, "recsys_spans_total", outcome="failed") == 0


def test_a_share_of_one_traces_every_call_and_a_collector_that_is_away_fails_none(
    bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    settings: dict[str, Any] = {"RECSYS_BUNDLE": str(bundle), "REDIS_URL": redis_url, "RECSYS_METRICS_PORT": "0"}
    settings |= {"RECSYS_TRACE_SHARE": "1", "RECSYS_TRACE_ENDPOINT": "http://127.0.0.1:9"}
    settings |= {"RECSYS_STORE_TIMEOUT_MS": "5000", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with server_process(tmp_path, **settings) as running:
        with Client(running.address, timeout_s=20) as client:
            for _ in range(20):
                client.rank(user=1, candidates=[1, 2, 3])
            deadline_s = time.monotonic() + 30
            while not (lost := total(page_series(running.facts["metrics"]), "recsys_spans_total", outcome="failed")):
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            assert lost >= 20
            client.rank(user=1, candidates=[1, 2, 3])
