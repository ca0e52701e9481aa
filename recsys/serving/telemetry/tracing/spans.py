"""Spans of a call that has ended: OpenTelemetry's ``ReadableSpan``, filled with the stages' own times.

The call is a server span; a stage is a span inside it; a round trip to the store is a client span inside its stage. No
span is open while a call runs. Importing this needs the extra ``recsys[otel]``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from recsys import __version__
from recsys.serving.current_call import STORE_LAP, CurrentCall, Lap
from recsys.serving.settings import Settings
from recsys.serving.telemetry.tracing.exporter import Sender
from recsys.serving.telemetry.tracing.tracer import Clock, Trace, new_span_id

_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that make a server span an error, by OpenTelemetry's conventions for RPC."""

_SCOPE = InstrumentationScope("recsys", __version__)
_NO_STATUS = Status(StatusCode.UNSET)


class SpanMaker:
    """Makes the spans of one worker.

    Args:
        settings: the server's.
        store: address of the store, without secrets.
        worker: number of the process among the server's workers.
    """

    def __init__(self, settings: Settings, *, store: str, worker: int) -> None:
        instance = f"{socket.gethostname()}:{settings.port}/{worker}"
        own = {SERVICE_NAME: "recsys", SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: instance}
        # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) wins over ours.
        self._resource = Resource.create(own)
        self._of_store = {"db.system.name": "redis", "server.address": store}

    def spans(
        self, trace: Trace, call: CurrentCall, clock: Clock, *, end_ns: int, service: str, code: str
    ) -> list[ReadableSpan]:
        """Make the spans of a call.

        Args:
            trace: its place.
            call: with its laps.
            clock: its start.
            end_ns: its end, ``perf_counter_ns``.
            service: full name of its service.
            code: name of its status.
        """
        attributes: dict[str, Any] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": call.method,
            "rpc.response.status_code": code,
            "recsys.request_id": call.request_id,
        }
        if call.release:
            attributes |= {"recsys.release": call.release, "recsys.model": call.model}
            attributes |= {"recsys.candidates": call.candidates, "recsys.degraded": call.degraded}
        if call.refused:
            attributes["recsys.refused"] = call.refused
        root = _context(int(trace.trace_id, 16), trace.span_id)
        parent = None
        if trace.parent is not None:
            parent = _context(root.trace_id, trace.parent.span_id, remote=True)
        lap = (f"{service}/{call.method}", clock.perf_ns, end_ns)
        status = Status(StatusCode.ERROR, code) if code in _SERVER_ERRORS else _NO_STATUS
        made = [self._span(lap, root, parent, clock, SpanKind.SERVER, attributes, status)]
        made.extend(self._stages(root, call, clock))
        return made

    def _stages(self, root: SpanContext, call: CurrentCall, clock: Clock) -> Iterator[ReadableSpan]:
        laps = call.laps or []
        stages = [(_context(root.trace_id, new_span_id()), lap) for lap in laps if lap[0] != STORE_LAP]
        for own, (stage, start_ns, end_ns) in stages:
            yield self._span((f"recsys.{stage}", start_ns, end_ns), own, root, clock, SpanKind.INTERNAL, {})
        for lap in laps:
            if lap[0] == STORE_LAP:
                around = (own for own, (_, first, last) in stages if first <= lap[1] and lap[2] <= last)
                own, parent = _context(root.trace_id, new_span_id()), next(around, root)
                yield self._span(lap, own, parent, clock, SpanKind.CLIENT, self._of_store)

    def _span(
        self,
        lap: Lap,
        own: SpanContext,
        parent: SpanContext | None,
        clock: Clock,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        status: Status = _NO_STATUS,
    ) -> ReadableSpan:
        name, start_ns, end_ns = lap
        return ReadableSpan(
            name,
            context=own,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            instrumentation_scope=_SCOPE,
            status=status,
            start_time=clock.wall(start_ns),
            end_time=clock.wall(end_ns),
        )


def otlp_sender(settings: Settings) -> Sender:
    """The exporter over OTLP/gRPC; what the settings do not say its own variables do (``OTEL_EXPORTER_OTLP_*``)."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    made: Sender = OTLPSpanExporter(endpoint=settings.trace_endpoint)
    return made


def _context(trace_id: int, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))
