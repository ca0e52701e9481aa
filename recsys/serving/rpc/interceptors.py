"""Interceptors: calls counted by method and status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from recsys.serving.telemetry.counters import CODES, METHODS, Telemetry

_MAKERS = {"unary_unary": grpc.unary_unary_rpc_method_handler, "stream_unary": grpc.stream_unary_rpc_method_handler}


class CallCounts(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts the calls of ``METHODS``; health checks and reflection are not among them, nor what gRPC refuses itself.

    Costs a call a microsecond: each method's handler is wrapped once.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._wrapped: dict[str, Any] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        found = self._wrapped.get(details.method)
        if found is None:
            handler, name = continuation(details), details.method.rpartition("/")[2]
            if handler is None or name not in METHODS:
                return handler
            kind = "stream_unary" if handler.request_streaming else "unary_unary"
            found = self._wrapped[details.method] = _MAKERS[kind](
                self._counted(getattr(handler, kind), name), handler.request_deserializer, handler.response_serializer
            )
        return found

    def _counted(self, serve: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
        def counted(message: Any, context: Any) -> Any:
            try:
                answer = serve(message, context)
            except BaseException:
                code = context.code()
                name = "UNKNOWN" if code is None or code.name not in CODES else code.name
                self._telemetry.count("requests", method, name)
                raise
            self._telemetry.count("requests", method, "OK")
            return answer

        return counted
