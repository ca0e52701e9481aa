"""Interceptors: work around each call, whatever its method. Here calls are counted, and messages that are none refused.

A new one (authentication, quotas, tracing) is a ``grpc.ServerInterceptor`` and an entry of :func:`list_interceptors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.counters import Telemetry

_MAKERS = {"unary_unary": grpc.unary_unary_rpc_method_handler, "stream_unary": grpc.stream_unary_rpc_method_handler}


Interceptor: TypeAlias = "grpc.ServerInterceptor[Any, Any]"
"""Generic in the stubs alone."""


def list_interceptors(telemetry: Telemetry | None, more: Sequence[Interceptor] = ()) -> list[Interceptor]:
    """List the interceptors of a server, the outermost first: it sees the status that the others give.

    Args:
        telemetry: counts calls; None for none.
        more: run after these.
    """
    counts: list[Interceptor] = [] if telemetry is None else [CallCounts(telemetry)]
    return [*counts, Decoding(), *more]


class Decoding(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuse a message that is none of the method's as INVALID_ARGUMENT; gRPC alone calls that INTERNAL, and logs a
    traceback each time. (It still does for a stream's.)"""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        handler = continuation(details)
        if details.method not in METHODS or handler is None or handler.request_deserializer is None:
            return handler
        if handler.request_streaming:
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            wrapped = _refusing_malformed(handler)
            self._wrapped[details.method] = handler, wrapped
        return wrapped


def _refusing_malformed(handler: Any) -> Any:
    decode, serve = handler.request_deserializer, handler.unary_unary

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return error

    def served(message: Any, context: Any) -> Any:
        if isinstance(message, DecodeError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message is none of this method's: {message}")
        return serve(message, context)

    return grpc.unary_unary_rpc_method_handler(served, decoded, handler.response_serializer)


class CallCounts(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Count the calls of ``METHODS``; health checks and reflection are not among them, nor what gRPC refuses itself.

    Costs a call a microsecond: a method's handler is wrapped once, unless an inner interceptor gives another each time.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
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
            wrapped = self._wrap(handler, name)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        kind = "stream_unary" if handler.request_streaming else "unary_unary"
        serve = self._counted(getattr(handler, kind), method)
        return _MAKERS[kind](serve, handler.request_deserializer, handler.response_serializer)

    def _counted(self, serve: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
        def counted(message: Any, context: Any) -> Any:
            try:
                answer = serve(message, context)
            except BaseException:
                code = context.code()
                self._telemetry.count("requests", method, "UNKNOWN" if code is None else code.name)
                raise
            self._telemetry.count("requests", method, "OK")
            return answer

        return counted
