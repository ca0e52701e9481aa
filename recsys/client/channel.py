"""gRPC for both clients: the channel's options, the calls, the errors."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from recsys.client.types import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    RpcError,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
)
from recsys.proto import feature_store_pb2, ranker_pb2
from recsys.proto.trailers import STORE_TRAILER

_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": s} for s in ("recsys.v1.Ranker", "recsys.v1.FeatureStore")],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
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
    ("grpc.keepalive_timeout_ms", 5_000),
    # As much as the server takes; gRPC's own limit is 4 MiB.
    ("grpc.max_receive_message_length", 16 << 20),
    # A connection of its own: a server of several processes serves each connection with one of them.
    ("grpc.use_local_subchannel_pool", 1),
]
READY_POLL_S = 0.05
STREAM_S = 600.0
"""How long a stream may take that is given no timeout: as the server has it."""

_ERRORS: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
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
        self.append_events = _call(unary, store + "AppendEvents", pb.AppendEventsResponse)
        self.append_stream = _call(channel.stream_unary, store + "AppendEventStream", pb.AppendEventStreamResponse)
        self.put_entities = _call(unary, store + "PutEntities", pb.PutEntitiesResponse)
        self.get_features = _call(unary, store + "GetFeatures", pb.GetFeaturesResponse)
        self.get_history = _call(unary, store + "GetHistory", pb.GetHistoryResponse)
        self.get_histories = _call(unary, store + "GetHistories", pb.GetHistoriesResponse)
        self.health = _call(unary, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)


HEALTH = health_pb2.HealthCheckRequest(service="recsys.v1.Ranker")


def _call(kind: Any, path: str, response: Any) -> Any:
    return kind(
        path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=response.FromString
    )


@contextmanager
def errors() -> Iterator[None]:
    """gRPC's errors as ours."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        kind = _ERRORS.get(code, RpcError)
        trailers: Any = error.trailing_metadata() or ()
        if kind is Unavailable and STORE_TRAILER in map(tuple, trailers):
            kind = StoreUnavailable
        raise kind(code.name, error.details() or "") from None


def options(address: str) -> list[tuple[str, Any]]:
    """The options of a channel to ``address``."""
    # gRPC would ask http_proxy even for this machine's own addresses, where no proxy can reach them.
    return [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if _is_local(address) else _OPTIONS


def _is_local(address: str) -> bool:
    """True if a gRPC address names this machine.

    >>> [_is_local(a) for a in ("localhost:1", "127.0.0.2:1", "[::1]:1", "dns:///localhost:1", "unix:/s", "cache:1")]
    [True, True, True, True, True, False]
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(?:dns:(?://[^/]*/)?|ipv4:|ipv6:|/+)", "", address)
    host = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return ip.is_loopback or ip.is_unspecified


def left_s(deadline_s: float) -> float:
    """Seconds until a moment of ``time.monotonic``; DeadlineExceeded when it has passed."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "the server is not ready")
    return left_s


def serving(response: health_pb2.HealthCheckResponse) -> bool:
    """True if a health check says so."""
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
