"""A collector of traces: OTLP over gRPC, as a real one speaks it, that keeps what it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass
class Collector:
    """A running collector.

    Attributes:
        endpoint: where it listens.
        spans: all that came, in OTLP's form, with the resource's attributes.
    """

    endpoint: str = ""
    spans: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def named(self, name: str) -> list[Any]:
        """Spans of a name so far."""
        with self.lock:
            return [span for _, span in self.spans if span.name == name]

    def wait_for(self, count: int, name: str, *, limit_s: float = 20.0) -> list[Any]:
        """Spans of a name, once there are so many."""
        deadline_s = time.monotonic() + limit_s
        while len(found := self.named(name)) < count:
            assert time.monotonic() < deadline_s, f"{len(found)} of {count} spans {name!r} came"
            time.sleep(0.02)
        return found


def attributes_of(span: Any) -> dict[str, Any]:
    """Attributes of a span or a resource as Python values."""
    return {pair.key: _plain(pair.value) for pair in span.attributes}


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Collect for the duration of a ``with`` block."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    collector = Collector()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            with collector.lock:
                for of_resource in request.resource_spans:
                    resource = attributes_of(of_resource.resource)
                    for of_scope in of_resource.scope_spans:
                        collector.spans.extend((resource, span) for span in of_scope.spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind)
