"""Observation: the outermost interceptor. It keeps the record of each call while it runs, and counts it at its end.

A call has a request id, the caller's own or one that is made, which its trailers and the log lines about it have. It is
in flight from here to its end; its time and, if it was refused, the reason are counted; if it is traced, its spans are
made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import getrandbits
from time import perf_counter_ns
from typing import Any

import grpc

from recsys.proto.trailers import REQUEST_ID
from recsys.serving.current_call import CURRENT, CurrentCall
from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.tracing.traceparent import HEADER
from recsys.serving.telemetry.tracing.tracer import Clock, Trace, Tracer

_MAKERS = {"unary_unary": grpc.unary_unary_rpc_method_handler, "stream_unary": grpc.stream_unary_rpc_method_handler}

_NO_ROOM = "RESOURCE_EXHAUSTED"

_GIVEN_ID = re.compile(r"[!-~]{1,128}")
"""Request ids that are taken over: short, printable ASCII without spaces."""


class Observation(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Observe the calls of ``METHODS``; some 5 us a call. Health checks and reflection are not among them.

    Args:
        telemetry: counts; None for none.
        tracer: None: no call is traced.
    """

    def __init__(self, telemetry: Telemetry | None, tracer: Tracer | None = None) -> None:
        self._telemetry = telemetry
        self._tracer = tracer
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        # Asked each time: inner interceptors decide call by call.
        handler = continuation(details)
        name = METHODS.get(details.method)
        if handler is None or name is None:
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            kind = "stream_unary" if handler.request_streaming else "unary_unary"
            serve = self._observed(getattr(handler, kind), name, details.method.split("/")[1])
            wrapped = _MAKERS[kind](serve, handler.request_deserializer, handler.response_serializer)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _observed(self, serve: Callable[[Any, Any], Any], method: str, service: str) -> Callable[[Any, Any], Any]:
        telemetry, tracer = self._telemetry, self._tracer

        def observed(message: Any, context: Any) -> Any:
            start_ns = perf_counter_ns()
            given, header = _of_caller(context.invocation_metadata())
            trace = None if tracer is None else tracer.start(header)
            call = CurrentCall(
                method, request_id=given or f"{getrandbits(64):016x}", trace_id="" if trace is None else trace.trace_id
            )
            clock = None if trace is None else Clock.now()
            token = CURRENT.set(call)
            if telemetry is not None:
                telemetry.call_began(method)
            code = "OK"
            try:
                return serve(message, context)
            except BaseException:
                found = context.code()
                code = "UNKNOWN" if found is None else found.name
                raise
            finally:
                CURRENT.reset(token)
                call.ended = True
                # Whatever others have set stays; a call that fails has its trailers sent after this, too.
                context.set_trailing_metadata((*(context.trailing_metadata() or ()), (REQUEST_ID, call.request_id)))
                end_ns = perf_counter_ns()
                if telemetry is not None:
                    telemetry.call_ended(
                        method, (end_ns - start_ns + 500) // 1000, refused=call.refused if code == _NO_ROOM else ""
                    )
                if trace is not None and clock is not None:
                    self._spans(trace, call, clock, end_ns, service, code)

        return observed

    def _spans(self, trace: Trace, call: CurrentCall, clock: Clock, end_ns: int, service: str, code: str) -> None:
        assert self._tracer is not None
        self._tracer.end(trace, call, clock, end_ns=end_ns, service=service, code=code)


def _of_caller(metadata: Any) -> tuple[str | None, str | None]:
    """The caller's request id, if it is one that is taken over, and its traceparent."""
    given = header = None
    for key, value in metadata or ():
        if key == REQUEST_ID:
            given = value if isinstance(value, str) and _GIVEN_ID.fullmatch(value) else None
        elif key == HEADER and isinstance(value, str):
            header = value
    return given, header
