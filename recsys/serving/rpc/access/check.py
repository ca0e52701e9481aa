"""The check of access: a ``grpc.ServerInterceptor`` that asks who calls, and lets through what that one may do.

It runs in the handler's thread, before the message is decoded: a caller that is not known costs no more than that.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from recsys.errors import AccessError, AuthenticationError
from recsys.proto import feature_store_pb2, ranker_pb2
from recsys.proto.trailers import RETRY_TRAILER
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.current_call import note_refusal, running_call
from recsys.serving.rpc.access.callers import identify
from recsys.serving.rpc.access.identity import Identity, RefusedError
from recsys.serving.rpc.access.policy import Policy
from recsys.serving.rpc.access.quotas import Quotas
from recsys.serving.rpc.access.roles import METHOD_ROLES
from recsys.serving.rpc.convert.events import event_count
from recsys.serving.rpc.statuses import truncate
from recsys.serving.telemetry.label_counts import LabelCounts

_MAKERS: Mapping[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""By request and answer that stream."""

_SLEEP_S = 0.1

_KNOWN = ("role", "undeclared")
"""Reasons to refuse a sender who is known."""

_RECHECK_S = 1.0
"""A stream's sender is looked up again after so long, and when the access file was read again."""

_refusals = RateLimitedLog(logging.getLogger("recsys.serving"))


def _batch(message: ranker_pb2.RankBatchRequest) -> int:
    return len(message.requests) - 1  # one was counted before the message was there


def _entities(message: feature_store_pb2.PutEntitiesRequest) -> int:
    return max(len(message.ids.integers), len(message.ids.texts))


_AMOUNTS: Mapping[str, tuple[str, Callable[[Any], int]]] = {
    "/recsys.v1.Ranker/RankBatch": ("calls", _batch),
    "/recsys.v1.FeatureStore/AppendEvents": ("events", event_count),
    "/recsys.v1.FeatureStore/PutEntities": ("events", _entities),
}
"""Methods of one message -> what else it counts as, and how often."""


class AccessCheck(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Deny what the policy does not allow. A method without a role is denied to everybody.

    Args:
        policy: gives the one in force.
        quotas: of the server; None: of this process alone.
    """

    def __init__(self, policy: Callable[[], Policy], *, quotas: Quotas | None = None) -> None:
        self._policy = policy
        self._quotas = Quotas() if quotas is None else quotas
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self.refused = LabelCounts()
        """Calls that were refused, by ``families.ACCESS_REASONS``."""
        self.limited = LabelCounts()
        """Calls that were over a quota, by ``families.QUOTAS``."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See ``grpc.ServerInterceptor``."""
        handler = continuation(details)
        if handler is None or METHOD_ROLES.get(details.method, "") is None:
            return handler
        before, wrapped = self._wrapped.get(details.method, (None, None))
        if before is not handler:
            wrapped = self._wrap(handler, details.method)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        kind, make = _MAKERS[handler.request_streaming, handler.response_streaming]
        serve, decode = getattr(handler, kind), handler.request_deserializer
        if handler.request_streaming:

            def checked_stream(messages: Iterator[Any], context: Any) -> Any:
                identity = self._admit(context, method)
                return serve(self._watched(messages, identity, context, method), context)

            # Messages are decoded one by one, as they are asked for: not before the check.
            return make(checked_stream, decode, handler.response_serializer)

        def checked(data: Any, context: Any) -> Any:
            identity = self._admit(context, method)
            try:
                message = data if decode is None else decode(data)
            except DecodeError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message is none of this method's: {error}")
            if method in _AMOUNTS and not isinstance(message, Exception):
                quota, amount = _AMOUNTS[method]
                self._take(context, identity, quota, amount(message))
            return serve(message, context)

        return make(checked, None, handler.response_serializer)

    def _admit(self, context: Any, method: str) -> Identity:
        """Let the call through, or end it."""
        try:
            identity = self._sender(self._policy(), context, method)
        except RefusedError as error:
            code = grpc.StatusCode.PERMISSION_DENIED if error.reason in _KNOWN else grpc.StatusCode.UNAUTHENTICATED
            context.abort(code, truncate(str(error)))
        if (call := running_call()) is not None:
            call.caller = identity.name
        self._take(context, identity, "calls", 1)
        return identity

    def _sender(self, policy: Policy, context: Any, method: str) -> Identity:
        """Identity of a call's sender, who may make it; raises RefusedError, counted and logged, if it may not."""
        try:
            role = METHOD_ROLES.get(method)
            if role is None:
                raise RefusedError("undeclared", f"{method} has no role yet: it is denied to everybody")
            identity = identify(policy, context.invocation_metadata() or (), context.auth_context)
            if role not in identity.roles:
                has = ", ".join(sorted(identity.roles)) or "none"
                raise RefusedError("role", f"{identity.name} needs the role {role!r} for {method}; it has: {has}")
        except RefusedError as error:
            self.refused.add(error.reason)
            _refusals.warning(
                (error.reason, method), "refused a call of %s by %s: %s", method, context.peer(), str(error)
            )
            raise
        return identity

    def _take(self, context: Any, identity: Identity, kind: str, amount: int) -> None:
        rate = identity.quota.calls_per_s if kind == "calls" else identity.quota.events_per_s
        wait_s = self._quotas.take(identity.name, kind, rate, amount)
        if not wait_s:
            return
        self.limited.add(kind)
        note_refusal("quota")
        wait_ms = math.ceil(1000 * wait_s)
        context.set_trailing_metadata(((RETRY_TRAILER, str(wait_ms)),))
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{identity.name}: more than its {rate:g} {kind} per second; try again in {wait_ms:,} ms",
        )

    def _watched(self, messages: Iterator[Any], identity: Identity, context: Any, method: str) -> Iterator[Any]:
        """Messages for as long as their sender may send them, and as fast as its quota allows: a stream can wait, and
        its sender with it.

        Raises:
            AccessError: the sender may no longer.
        """
        policy, checked_s = self._policy(), time.monotonic()
        for message in messages:
            if self._policy() is not policy or time.monotonic() - checked_s >= _RECHECK_S:
                policy, checked_s = self._policy(), time.monotonic()
                try:
                    identity = self._sender(policy, context, method)
                except RefusedError as error:
                    kind = AccessError if error.reason in _KNOWN else AuthenticationError
                    raise kind(str(error)) from None
            if method in _STREAMED and not isinstance(message, Exception):
                self._wait_for_events(identity, event_count(message), context)
            yield message

    def _wait_for_events(self, identity: Identity, events: int, context: Any) -> None:
        rate, slow = identity.quota.events_per_s, False
        while context.is_active() and (wait_s := self._quotas.take(identity.name, "events", rate, events)):
            slow = True
            time.sleep(min(wait_s, _SLEEP_S))
        if slow:
            self.limited.add("stream")


_STREAMED = ("/recsys.v1.FeatureStore/AppendEventStream",)
"""Streams whose messages are events."""
