"""Interceptors: work around each call, whatever its method. Here calls are counted, and messages that are none refused.

So is who comes past TLS: the watchdog's own address is in the clear, and any process of the machine can find it.

A new one (tracing) is a ``grpc.ServerInterceptor`` and an entry of :func:`list_interceptors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from recsys.errors import InvalidInputError
from recsys.serving.rpc.bounds import BoundsCheck
from recsys.serving.rpc.early_ends import CALLED_METHOD, EarlyEnds
from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.counters import Telemetry

_MAKERS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


Interceptor: TypeAlias = "grpc.ServerInterceptor[Any, Any]"
"""Generic in the stubs alone."""

HEALTH = "/grpc.health.v1.Health/"
"""Begins the paths of its methods."""


def list_interceptors(
    telemetry: Telemetry | None,
    more: Sequence[Interceptor] = (),
    *,
    early_ends: EarlyEnds | None = None,
    secured: bool = False,
    access: Sequence[Interceptor] = (),
) -> list[Interceptor]:
    """List the interceptors of a server, the outermost first: it sees the status that the others give.

    Args:
        telemetry: counts calls; None for none.
        more: run after these.
        early_ends: the record of calls that no handler has; None: a new one.
        secured: the server speaks TLS, and its private address gets health checks alone.
        access: says who may call; before a message is decoded.
    """
    ends = early_ends or EarlyEnds(telemetry)
    counts: list[Interceptor] = [] if telemetry is None else [CallCounts(telemetry)]
    private: list[Interceptor] = [HealthAlone()] if secured else []
    return [Arrivals(ends), *counts, *private, *access, Decoding(ends), BoundsCheck(), *more]


class Arrivals(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Note the path of a call's method in its context, count the call, and record one that there is no method for."""

    def __init__(self, early_ends: EarlyEnds) -> None:
        self._early_ends = early_ends

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        CALLED_METHOD.set(details.method)
        self._early_ends.arrived += 1  # by gRPC's one thread of events
        handler = continuation(details)
        if handler is None:
            self._early_ends.record("unknown_method", details.method, None, "there is no such method")
        return handler


class Decoding(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuse a message that is none of the method's as INVALID_ARGUMENT; gRPC alone calls that INTERNAL, and logs a
    traceback each time. In a stream of messages the reader gets InvalidInputError, with the message's place."""

    def __init__(self, early_ends: EarlyEnds) -> None:
        self._early_ends = early_ends
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        handler = continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            wrapped = self._refusing_malformed(handler, details.method)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _refusing_malformed(self, handler: Any, path: str) -> Any:
        decode, kind = handler.request_deserializer, _kind(handler)
        serve = getattr(handler, kind)

        def decoded(data: bytes) -> Any:
            try:
                return decode(data)
            except DecodeError as error:
                return error

        def refusal(error: DecodeError, what: str) -> str:
            message = f"{what} is none of this method's: {error}"
            self._early_ends.record("malformed", path, None, message)
            return message

        def checked(messages: Iterator[Any]) -> Iterator[Any]:
            for place, message in enumerate(messages):
                if isinstance(message, DecodeError):
                    raise InvalidInputError(refusal(message, f"message {place} of the stream, counted from 0,"))
                yield message

        def served(message: Any, context: Any) -> Any:
            if isinstance(message, DecodeError):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal(message, "the message"))
            return serve(checked(message) if handler.request_streaming else message, context)

        def answers(messages: Any, context: Any) -> Iterator[Any]:
            try:
                yield from served(messages, context)
            except InvalidInputError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        serves = answers if handler.response_streaming else served
        return _MAKERS[kind](serves, decoded, handler.response_serializer)


class HealthAlone(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuse calls that come over a socket of the machine, which has no TLS, as PERMISSION_DENIED; health is answered.

    The name of the watchdog's address is random and no secret: ``/proc/net/unix`` has it. Costs a call a microsecond.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        handler = continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            wrapped = self._refusing_local(handler)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _refusing_local(self, handler: Any) -> Any:
        kind = _kind(handler)
        serve = getattr(handler, kind)

        def served(message: Any, context: Any) -> Any:
            if context.peer().startswith("unix"):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "this address is for health checks alone; use TLS")
            return serve(message, context)

        return _MAKERS[kind](served, handler.request_deserializer, handler.response_serializer)


class CallCounts(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Count the calls of ``METHODS``; health checks and reflection are not among them. Calls that no handler has are
    counted by ``EarlyEnds``.

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
        kind = _kind(handler)
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


def _kind(handler: Any) -> str:
    """The name of the attribute in which a method's handler is."""
    request = "stream" if handler.request_streaming else "unary"
    return f"{request}_{'stream' if handler.response_streaming else 'unary'}"
