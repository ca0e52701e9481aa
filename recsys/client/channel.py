"""gRPC for both clients: the channel's options, the calls, the errors."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from recsys.client.address import is_local
from recsys.client.context import Metadata, call_metadata
from recsys.client.tls import Tls, closed_at_once, handshake_problem
from recsys.client.types import (
    DeadlineExceeded,
    InvalidArgument,
    NotExported,
    NotFound,
    Overloaded,
    PermissionDenied,
    RpcError,
    StoreRefused,
    StoreUnavailable,
    Unauthenticated,
    Unavailable,
)
from recsys.errors import InvalidInputError
from recsys.proto import feature_store_pb2, ranker_pb2, related_pb2
from recsys.proto.limits import MESSAGE_BYTES
from recsys.proto.trailers import EXPORT_TRAILER, RETRY_TRAILER, STORE_TRAILER

_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": s} for s in ("recsys.v1.Ranker", "recsys.v1.Related", "recsys.v1.FeatureStore")],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                # CANCELLED by the server is a call that has just come when it begins to drain.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        },
        # A repetition would forget how far the first attempt came, which the error tells.
        {"name": [{"service": "recsys.v1.FeatureStore", "method": "AppendEventStream"}]},
    ]
}
_OPTIONS = [
    ("grpc.service_config", json.dumps(_RETRIES)),
    # gRPC's own maximum is two minutes: too long to notice that a server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A server whose machine is gone says nothing: while calls wait for it, ask whether the connection still stands.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or gRPC (1.85) waits a minute for the answer
    # As much as the server takes and sends; gRPC's own limit for what it receives is 4 MiB.
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A connection of its own: a server of several processes serves each connection with one of them.
    ("grpc.use_local_subchannel_pool", 1),
]
_OF_SEVERAL_SERVERS = [
    # All addresses of a name in turn. gRPC's default keeps to the first one that answers: of many servers behind a name
    # each client would use one, and those that are added none.
    ("grpc.lb_policy_name", "round_robin"),
    # A connection that ends has its name looked up, which gRPC by itself does every 30 s at most.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
READY_POLL_S = 0.05
STREAM_S = 600.0
"""How long a stream may take that is given no timeout: as the server has it."""

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.name
"""The code of errors after which another try may fare better."""

EXPLAIN_S = 10.0
"""Time of an explanation that is given no timeout: as the server has it."""

LONGEST_S = 1_000_000
"""The longest timeout: gRPC takes longer ones as already over."""

_TOO_LARGE = re.compile(r"(CLIENT|SERVER): (Sent|Received) message larger than max \((\d+) vs\. (\d+)\)")
_CLOSED = "Channel closed!"

_ERRORS: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # Not by us: so ends a call that has just come when the server begins to drain.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.FAILED_PRECONDITION: StoreRefused,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


class Calls:
    """The calls on a channel, blocking or not: a blocking one returns, the other gives an awaitable."""

    def __init__(self, channel: Any) -> None:
        store = "/recsys.v1.FeatureStore/"
        unary, pb = channel.unary_unary, feature_store_pb2
        ranker = "/recsys.v1.Ranker/"
        self.rank = _call(unary, ranker + "Rank", ranker_pb2.RankResponse)
        self.rank_batch = _call(unary, ranker + "RankBatch", ranker_pb2.RankBatchResponse)
        self.retrieve = _call(unary, ranker + "Retrieve", ranker_pb2.RetrieveResponse)
        self.recommend = _call(unary, ranker + "Recommend", ranker_pb2.RecommendResponse)
        self.explain = _call(unary, ranker + "Explain", ranker_pb2.ExplainResponse)
        self.similar = _call(unary, "/recsys.v1.Related/Similar", related_pb2.SimilarResponse)
        self.trending = _call(unary, "/recsys.v1.Related/Trending", related_pb2.TrendingResponse)
        self.audience = _call(unary, "/recsys.v1.Related/Audience", related_pb2.AudienceResponse)
        self.append_events = _call(unary, store + "AppendEvents", pb.AppendEventsResponse)
        self.append_stream = _call(channel.stream_unary, store + "AppendEventStream", pb.AppendEventStreamResponse)
        self.put_entities = _call(unary, store + "PutEntities", pb.PutEntitiesResponse)
        self.withdraw_items = _call(unary, store + "WithdrawItems", pb.WithdrawItemsResponse)
        self.get_features = _call(unary, store + "GetFeatures", pb.GetFeaturesResponse)
        self.get_history = _call(unary, store + "GetHistory", pb.GetHistoryResponse)
        self.get_histories = _call(unary, store + "GetHistories", pb.GetHistoriesResponse)
        self.health = _call(unary, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)


HEALTH = health_pb2.HealthCheckRequest(service="recsys.v1.Ranker")


def _call(kind: Any, path: str, response: Any) -> Any:
    made = kind(
        path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=response.FromString
    )

    def call(*message: Any, metadata: Metadata = (), **options: Any) -> Any:
        return made(*message, metadata=(*metadata, *call_metadata()) or None, **options)

    return call


@contextmanager
def errors(*, tls: Tls | None) -> Iterator[None]:
    """gRPC's errors as ours; ``tls``: the channel's."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error, tls=tls) from None


def error_of(error: Any, *, tls: Tls | None = None) -> RpcError:
    """The error that a call of gRPC ended with, as ours; ``tls``: its channel's."""
    code, details = error.code(), error.details() or ""
    kind = _ERRORS.get(code, RpcError)
    trailers: Any = error.trailing_metadata() or ()
    if kind is Unavailable and STORE_TRAILER in map(tuple, trailers):
        kind = StoreUnavailable
    if kind is StoreRefused and EXPORT_TRAILER in map(tuple, trailers):
        kind = NotExported
    # What gRPC itself says in words alone: that of its statuses tells callers to try again, in vain.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (size := _TOO_LARGE.search(details)):
        side, verb, found, allowed = size[1], size[2], int(size[3]), int(size[4])
        request = (side, verb) in (("CLIENT", "Sent"), ("SERVER", "Received"))
        advice = "send less at a time" if request else "ask for less at a time"
        what = "request" if request else "answer"
        return InvalidArgument(code.name, f"the {what} has {found:,} bytes; allowed: {allowed:,}; {advice}")
    if code is grpc.StatusCode.CANCELLED and details == _CLOSED:
        return closed_error()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{details or 'unknown call'}: what answers is an older recsys, or another program"
    if code is grpc.StatusCode.UNAVAILABLE and tls is not None and (words := handshake_problem(details)):
        return RpcError(code.name, f"{words} ({details})")
    if code is grpc.StatusCode.UNAVAILABLE and (words := closed_at_once(details, tls)):
        details = f"{words} ({details})"
    if code is grpc.StatusCode.UNAVAILABLE and "Failed parsing HTTP/2" in details:
        return RpcError(code.name, f"what answers at that address does not speak gRPC: {details}")
    made = kind(code.name, details)
    if isinstance(made, Overloaded):
        made.retry_after_s = _retry_after_s(trailers)
    return made


def _retry_after_s(trailers: Any) -> float | None:
    """Seconds after which a refused call may come again, as the server said; None: it did not, or said never."""
    for key, value in trailers:
        if key == RETRY_TRAILER and str(value).isascii() and str(value).isdecimal():
            return int(value) / 1e3
    return None


def closed_error() -> RpcError:
    """The error of a call on a client that was closed."""
    return RpcError("CANCELLED", "this client was closed; make another one")


def options(target: str) -> list[tuple[str, Any]]:
    """The options of a channel to ``target``."""
    if is_local(target):
        # One server, though its name may have two addresses. gRPC would ask http_proxy even for this machine's own
        # addresses, where no proxy can reach them.
        return [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
    return [*_OPTIONS, *_OF_SEVERAL_SERVERS]


def check_timeout_s(timeout_s: float) -> float:
    """The timeout, if it is one.

    Raises:
        InvalidInputError: no number, not a number, infinite, or longer than a call may take.
        DeadlineExceeded: 0 or less: there is no time left for the call.
    """
    number: Any = timeout_s
    # float() takes numpy's numbers, but texts too; nan is not smaller than anything.
    if isinstance(number, str | bytes | bool) or not hasattr(number, "__float__") or not float(number) <= LONGEST_S:
        raise InvalidInputError(
            f"timeout_s is {timeout_s!r}; allowed: a number of seconds up to {LONGEST_S:,} (0 or less: none is left)"
        )
    if timeout_s <= 0:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", f"timeout_s is {timeout_s}: no time was left for the call")
    return float(timeout_s)


def serving(response: health_pb2.HealthCheckResponse) -> bool:
    """True if a health check says so."""
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


class Waiting:
    """The time for which a caller waits for a server, and why it is not ready yet."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._reason = "it is draining"

    def failed(self, error: RpcError) -> None:
        """Note the last reason."""
        self._reason = str(error)

    def left_s(self) -> float:
        """Seconds left; DeadlineExceeded when there are none."""
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", f"the server is not ready: {self._reason}")
        return left_s
