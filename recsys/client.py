"""The Python client: what a backend imports.

::

    with Client("127.0.0.1:50051") as client:
        ranking = client.rank(user=42, candidates=[1, 2, 3], top_k=2)
        print(ranking.items, ranking.scores)

:class:`AsyncClient` has the same methods, awaited. Ids are integers or strings, whichever the
model's FeatureSet declares; sequences may be lists or numpy arrays. Timeouts are in seconds. A
call that finds the server unavailable is repeated up to twice within its timeout: every call
may safely run twice. Errors::

    RpcError (a RecsysError)      code and message
    ├── InvalidArgument           also an InvalidInputError; the message says what is allowed
    ├── NotFound                  also a NotFoundError: no such model
    ├── Overloaded                also an OverloadedError: no room; retry with backoff
    ├── Unavailable               the server is unreachable or draining
    │   └── StoreUnavailable      also a StoreUnavailableError: only the store behind it is unreachable
    ├── StoreRefused              also a StoreError: store full, foreign bytes or another layout
    └── DeadlineExceeded          also a TimeoutError

Longer than most files here: the two clients stand together so that their signatures stay equal.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2

from recsys.client_types import (
    Appended,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    Ranking,
    RpcError,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
    UserHistory,
)
from recsys.errors import InvalidInputError
from recsys.serving._pb import feature_store_pb2, ranker_pb2
from recsys.serving.status import STORE_TRAILER

__all__ = [
    "Appended",
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InvalidArgument",
    "NotFound",
    "Overloaded",
    "Ranking",
    "RpcError",
    "StoreRefused",
    "StoreUnavailable",
    "Unavailable",
    "UserHistory",
]

Id = int | str
Ids = Sequence[int] | Sequence[str] | npt.NDArray[Any]

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
        }
    ]
}
_OPTIONS = [
    ("grpc.service_config", json.dumps(_RETRIES)),
    # gRPC's own maximum is two minutes: too long to notice that a server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_DEGRADATIONS = {
    ranker_pb2.DEGRADATION_USER_UNAVAILABLE: "user",
    ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE: "items",
}
_READY_POLL_S = 0.05


_ERRORS: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.FAILED_PRECONDITION: StoreRefused,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


class Client:
    """Blocking client of the server at ``address`` (``host:port``). Safe to share between threads.

    Args:
        address: where the server is; connecting happens at the first call.
        timeout_s: how long a call may take that is given no timeout of its own.
    """

    def __init__(self, address: str = "127.0.0.1:50051", *, timeout_s: float = 1.0) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_options(address))
        self._calls = _Calls(self._channel)

    def rank(
        self,
        *,
        user: Id,
        candidates: Ids,
        features: Mapping[str, Any] | None = None,
        top_k: int = 0,
        model: str = "",
        timeout_s: float | None = None,
    ) -> Ranking:
        """Score candidates for a user.

        Args:
            user: the user's id.
            candidates: C item ids.
            features: user or context features that override stored ones: a value, or a list of them.
            top_k: 0 for all scores; otherwise only the best ``top_k`` distinct candidates.
            model: empty for the server's only one.

        Raises:
            RpcError: see the module's docstring.
            InvalidInputError: ids of mixed or unsupported types, or a negative or fractional ``top_k``.
        """
        request = _rank_request(user, candidates, features, top_k, model)
        with _errors():
            response = self._calls.rank(request, timeout=self._limit_s(timeout_s))
        return _ranking(response, candidates)

    def append_events(
        self,
        *,
        user: Id,
        items: Ids,
        timestamps_ms: Sequence[int] | npt.NDArray[Any],
        arrivals_ms: Sequence[int] | npt.NDArray[Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Appended:
        """Append L events to a user's history; sending one again has no effect. Raises as :meth:`rank`.

        Args:
            user: the user's id.
            items: the events' item ids, length L, 1 to 10,000.
            timestamps_ms: milliseconds since 1970, length L.
            arrivals_ms: when each became known; default: when the server receives it.
            attributes: ids by attribute name, each of length L; ``None`` for a missing one. One that is
                named like an item feature and not sent takes the item's stored value.
        """
        request = _append_request(user, items, timestamps_ms, arrivals_ms, attributes)
        with _errors():
            response = self._calls.append_events(request, timeout=self._limit_s(timeout_s))
        return _appended(response)

    def get_history(self, *, user: Id, limit: int = 0, timeout_s: float | None = None) -> UserHistory:
        """The newest ``limit`` events of a user (0: as many as a model reads). Raises as :meth:`rank`."""
        request = _history_request(user, limit)
        with _errors():
            response = self._calls.get_history(request, timeout=self._limit_s(timeout_s))
        return _user_history(response)

    def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server answers and is not draining."""
        try:
            return _serving(self._calls.health(_HEALTH, timeout=self._limit_s(timeout_s)))
        except grpc.RpcError:
            return False

    def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """Return once the server is ready; DeadlineExceeded if it is not after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while not self.is_ready(timeout_s=_left_s(deadline_s)):
            time.sleep(_READY_POLL_S)

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


class AsyncClient:
    """:class:`Client` for asyncio: the same calls, awaited. Make it and use it in one event loop."""

    def __init__(self, address: str = "127.0.0.1:50051", *, timeout_s: float = 1.0) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(address, options=_options(address))
        self._calls = _Calls(self._channel)

    async def rank(
        self,
        *,
        user: Id,
        candidates: Ids,
        features: Mapping[str, Any] | None = None,
        top_k: int = 0,
        model: str = "",
        timeout_s: float | None = None,
    ) -> Ranking:
        """See :meth:`Client.rank`."""
        request = _rank_request(user, candidates, features, top_k, model)
        with _errors():
            response = await self._calls.rank(request, timeout=self._limit_s(timeout_s))
        return _ranking(response, candidates)

    async def append_events(
        self,
        *,
        user: Id,
        items: Ids,
        timestamps_ms: Sequence[int] | npt.NDArray[Any],
        arrivals_ms: Sequence[int] | npt.NDArray[Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Appended:
        """See :meth:`Client.append_events`."""
        request = _append_request(user, items, timestamps_ms, arrivals_ms, attributes)
        with _errors():
            response = await self._calls.append_events(request, timeout=self._limit_s(timeout_s))
        return _appended(response)

    async def get_history(self, *, user: Id, limit: int = 0, timeout_s: float | None = None) -> UserHistory:
        """See :meth:`Client.get_history`."""
        request = _history_request(user, limit)
        with _errors():
            response = await self._calls.get_history(request, timeout=self._limit_s(timeout_s))
        return _user_history(response)

    async def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """See :meth:`Client.is_ready`."""
        try:
            return _serving(await self._calls.health(_HEALTH, timeout=self._limit_s(timeout_s)))
        except grpc.RpcError:
            return False

    async def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """See :meth:`Client.wait_ready`."""
        deadline_s = time.monotonic() + timeout_s
        while not await self.is_ready(timeout_s=_left_s(deadline_s)):
            await asyncio.sleep(_READY_POLL_S)

    async def close(self) -> None:
        """See :meth:`Client.close`."""
        await self._channel.close(None)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


class _Calls:
    """The four calls on a channel, blocking or not: a blocking one returns, the other gives an awaitable."""

    def __init__(self, channel: Any) -> None:
        ranker, store = "/recsys.v1.Ranker/", "/recsys.v1.FeatureStore/"
        self.rank = _call(channel, ranker + "Rank", ranker_pb2.RankResponse)
        self.append_events = _call(channel, store + "AppendEvents", feature_store_pb2.AppendEventsResponse)
        self.get_history = _call(channel, store + "GetHistory", feature_store_pb2.GetHistoryResponse)
        self.health = _call(channel, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)


_HEALTH = health_pb2.HealthCheckRequest(service="recsys.v1.Ranker")


def _call(channel: Any, path: str, response: Any) -> Any:
    return channel.unary_unary(
        path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=response.FromString
    )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        kind = _ERRORS.get(code, RpcError)
        trailers: Any = error.trailing_metadata() or ()
        if kind is Unavailable and STORE_TRAILER in map(tuple, trailers):
            kind = StoreUnavailable
        raise kind(code.name, error.details() or "") from None


def _options(address: str) -> list[tuple[str, Any]]:
    # gRPC would ask http_proxy even for this machine's own addresses, where no proxy can reach them.
    return [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if _is_local(address) else _OPTIONS


def _is_local(address: str) -> bool:
    """Whether a gRPC address names this machine.

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


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "the server is not ready")
    return left_s


def _serving(response: health_pb2.HealthCheckResponse) -> bool:
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _rank_request(
    user: Id, candidates: Ids, features: Mapping[str, Any] | None, top_k: int, model: str
) -> ranker_pb2.RankRequest:
    values = {name: _feature_value(name, value) for name, value in (features or {}).items()}
    request = ranker_pb2.RankRequest(user=_id(user), candidates=_ids("candidates", candidates), features=values)
    with _fitting("top_k", allowed="an integer, 0 or more"):
        request.top_k = top_k
    with _fitting("model", allowed="a string"):
        request.model = model
    return request


def _ranking(response: ranker_pb2.RankResponse, candidates: Ids) -> Ranking:
    items = list(candidates)
    positions = np.array(response.positions, dtype=np.int64)
    if len(positions):
        items = [items[i] for i in positions]
    else:
        positions = np.arange(len(items))
    return Ranking(
        items=items,
        scores=np.array(response.scores, dtype=np.float32),
        positions=positions,
        model=response.model,
        model_version=response.model_version,
        history_events=response.history_events,
        degraded=tuple(_DEGRADATIONS[d] for d in response.degraded if d in _DEGRADATIONS),
    )


def _append_request(
    user: Id, items: Ids, timestamps_ms: Any, arrivals_ms: Any, attributes: Mapping[str, Any] | None
) -> feature_store_pb2.AppendEventsRequest:
    columns = feature_store_pb2.EventColumns(
        items=_ids("items", items),
        timestamps_ms=_ids("timestamps_ms", timestamps_ms).integers,
        arrivals_ms=() if arrivals_ms is None else _ids("arrivals_ms", arrivals_ms).integers,
        attributes={name: _ids(name, values, missing=True) for name, values in (attributes or {}).items()},
    )
    return feature_store_pb2.AppendEventsRequest(user=_id(user), events=columns)


def _appended(response: feature_store_pb2.AppendEventsResponse) -> Appended:
    return Appended(added=response.added, stored=response.stored)


def _history_request(user: Id, limit: int) -> feature_store_pb2.GetHistoryRequest:
    request = feature_store_pb2.GetHistoryRequest(user=_id(user))
    with _fitting("limit", allowed="an integer, 0 or more"):
        request.limit = limit
    return request


def _user_history(response: feature_store_pb2.GetHistoryResponse) -> UserHistory:
    columns = response.events
    return UserHistory(
        items=np.array(columns.items.integers, dtype=np.int64),
        timestamps_ms=np.array(columns.timestamps_ms, dtype=np.int64),
        arrivals_ms=np.array(columns.arrivals_ms, dtype=np.int64),
        attributes={name: np.array(ids.integers, dtype=np.int64) for name, ids in columns.attributes.items()},
        appended=response.appended,
        trimmed=response.trimmed,
    )


def _id(user: Id) -> ranker_pb2.Id:
    with _fitting("user"):
        return ranker_pb2.Id(text=user) if isinstance(user, str) else ranker_pb2.Id(integer=user)


def _ids(name: str, values: Any, *, missing: bool = False) -> ranker_pb2.Ids:
    """Integers or strings; with ``missing``, ``None`` becomes what the server takes for no value."""
    with _fitting(name):
        given = _list(values)
    texts = isinstance(next((v for v in given if v is not None), None), str)
    if missing:
        given = [("" if texts else -1) if v is None else v for v in given]
    with _fitting(name):
        return ranker_pb2.Ids(texts=given) if texts else ranker_pb2.Ids(integers=given)


def _feature_value(name: str, value: Any) -> ranker_pb2.FeatureValue:
    if value is None:
        return ranker_pb2.FeatureValue()
    values = [value] if isinstance(value, str) or not hasattr(value, "__len__") else _list(value)
    if any(isinstance(v, float | np.floating) for v in values):
        with _fitting(name):
            return ranker_pb2.FeatureValue(numbers=values)
    ids = _ids(name, values)
    return ranker_pb2.FeatureValue(integers=ids.integers, texts=ids.texts)


def _list(values: Any) -> list[Any]:
    # tolist(): Python's own numbers go into protobuf faster than numpy's.
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


@contextmanager
def _fitting(name: str, *, allowed: str = "64-bit integers only, or strings only") -> Iterator[None]:
    """protobuf checks types and ranges while it copies; name the argument in its complaint."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name}: {error}; allowed: {allowed}") from None
