"""The client for asyncio; import it from :mod:`recsys.client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from recsys.client.channel import (
    EXPLAIN_S,
    HEALTH,
    READY_POLL_S,
    STREAM_S,
    UNAVAILABLE,
    Waiting,
    check_timeout_s,
    closed_error,
    errors,
    serving,
)
from recsys.client.connection import Connection
from recsys.client.filters import Where
from recsys.client.messages import explain, feature_store, ranker, related
from recsys.client.retries import Retries
from recsys.client.rules import Rule
from recsys.client.tls import Tls
from recsys.client.token import CallToken
from recsys.client.types import (
    Appended,
    AppendSummary,
    Audience,
    EntityFeatures,
    Explanation,
    Id,
    Ids,
    Integers,
    ListQuery,
    Overloaded,
    Ranking,
    RankQuery,
    Recommendation,
    Retrieval,
    RpcError,
    SimilarItems,
    TrendingItems,
    UserEvents,
    UserHistory,
)


class AsyncClient:
    """:class:`Client` for asyncio: the same calls, awaited. Make it and use it in one event loop."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout_s: float = 1.0,
        tls: Tls | None = None,
        token: str | Path | None = None,
        token_in_clear: bool = False,
    ) -> None:
        self._timeout_s = check_timeout_s(timeout_s)
        self._token = CallToken(token, address=address, secured=tls is not None, in_clear=token_in_clear)
        self._closed = False
        self._closings: set[asyncio.Future[None]] = set()
        self._connection = Connection(address, tls, open_channel=_channel, close_channel=self._close_soon)

    async def rank(
        self,
        *,
        user: Id,
        candidates: Ids,
        features: Mapping[str, Any] | None = None,
        top_k: int = 0,
        model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        rules: Sequence[Rule] = (),
        reasons: bool = False,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Ranking:
        """See :meth:`Client.rank`."""
        query = RankQuery(
            user=user,
            candidates=candidates,
            features=features,
            top_k=top_k,
            model=model,
            time_ms=time_ms,
            filter=filter,
            rules=rules,
            reasons=reasons,
        )
        request = ranker.rank_request(query, timings=timings)
        return ranker.ranking(await self._answer("rank", request, timeout_s), candidates)

    async def rank_batch(
        self, requests: Sequence[RankQuery], *, timings: bool = False, timeout_s: float | None = None
    ) -> list[Ranking]:
        """See :meth:`Client.rank_batch`."""
        request = ranker.rank_batch_request(requests, timings=timings)
        return ranker.rankings(await self._answer("rank_batch", request, timeout_s), requests)

    async def retrieve(
        self,
        *,
        user: Id,
        top_k: int = 100,
        features: Mapping[str, Any] | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
        model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        fallback: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Retrieval:
        """See :meth:`Client.retrieve`."""
        request = ranker.retrieve_request(
            user, top_k, features, exclude, include_seen, model, time_ms, timings, filter, fallback
        )
        return ranker.retrieval(await self._answer("retrieve", request, timeout_s))

    async def recommend(
        self,
        *,
        user: Id,
        top_k: int = 10,
        candidates: int = 0,
        features: Mapping[str, Any] | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
        model: str = "",
        retrieval_model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        fallback: str = "",
        rules: Sequence[Rule] = (),
        reasons: bool = False,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Recommendation:
        """See :meth:`Client.recommend`."""
        request = ranker.recommend_request(
            user,
            top_k,
            candidates,
            features,
            exclude,
            include_seen,
            model,
            retrieval_model,
            time_ms,
            timings,
            filter,
            rules,
            reasons,
            fallback,
        )
        return ranker.recommendation(await self._answer("recommend", request, timeout_s))

    async def explain(
        self,
        *,
        user: Id,
        item: Id,
        features: Mapping[str, Any] | None = None,
        model: str = "",
        release: str = "",
        time_ms: int | None = None,
        max_events: int = 0,
        within: ListQuery | None = None,
        timeout_s: float | None = None,
    ) -> Explanation:
        """See :meth:`Client.explain`."""
        request = explain.request(user, item, features, model, release, time_ms, max_events, within)
        limit_s = EXPLAIN_S if timeout_s is None else timeout_s
        return explain.explanation(await self._answer("explain", request, limit_s))

    async def similar(
        self,
        *,
        items: Ids,
        top_k: int = 10,
        exclude: Ids | None = None,
        filter: Where | None = None,
        by: str = "",
        model: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> SimilarItems:
        """See :meth:`Client.similar`."""
        request = related.similar_request(items, top_k, exclude, model, timings, filter, by)
        return related.similar_items(await self._answer("similar", request, timeout_s), items)

    async def audience(
        self,
        *,
        items: Ids,
        top_k: int = 100,
        at_least: int = 1,
        model: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Audience:
        """See :meth:`Client.audience`."""
        request = related.audience_request(items, top_k, at_least, model, timings)
        return related.audience(await self._answer("audience", request, timeout_s), items)

    async def trending(
        self,
        *,
        top_k: int = 10,
        exclude: Ids | None = None,
        filter: Where | None = None,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> TrendingItems:
        """See :meth:`Client.trending`."""
        request = related.trending_request(top_k, exclude, timings, filter)
        return related.trending_items(await self._answer("trending", request, timeout_s))

    async def append_events(
        self,
        *,
        user: Id,
        items: Ids,
        timestamps_ms: Integers,
        arrivals_ms: Integers | None = None,
        attributes: Mapping[str, Any] | None = None,
        source: str = "",
        offsets: Integers | None = None,
        restart_source: bool = False,
        timeout_s: float | None = None,
    ) -> Appended:
        """See :meth:`Client.append_events`."""
        batch = UserEvents(
            user=user,
            items=items,
            timestamps_ms=timestamps_ms,
            arrivals_ms=arrivals_ms,
            attributes=attributes,
            source=source,
            offsets=offsets,
            restart_source=restart_source,
        )
        request = feature_store.append_request(batch)
        return feature_store.appended(await self._answer("append_events", request, timeout_s))

    async def append_stream(
        self, batches: Iterable[UserEvents] | AsyncIterable[UserEvents], *, timeout_s: float | None = None
    ) -> AppendSummary:
        """See :meth:`Client.append_stream`; ``batches`` may also be asynchronous."""
        problem: list[Exception] = []
        limit_s = self._limit_s(timeout_s, STREAM_S)
        with self._connection.calls() as calls, errors(tls=self._connection.tls):
            call = calls.append_stream(timeout=limit_s, metadata=self._token.metadata())
            _keep_status(call)
            # In a task of its own: the call may end while the sender has nothing to send.
            sending = asyncio.create_task(_send(batches, call, problem))
            try:
                response = await call
            finally:
                call.cancel()
                sending.cancel()
                await asyncio.wait([sending])
        if problem:
            raise problem[0]
        return feature_store.append_summary(response)

    async def put_entities(
        self,
        *,
        entity: str,
        ids: Ids,
        features: Mapping[str, Any],
        clear: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """See :meth:`Client.put_entities`."""
        request = feature_store.put_request(entity, ids, features, clear=clear)
        await self._answer("put_entities", request, timeout_s)

    async def withdraw_items(self, *, items: Ids, timeout_s: float | None = None) -> None:
        """See :meth:`Client.withdraw_items`."""
        await self._answer("withdraw_items", feature_store.withdraw_request(items), timeout_s)

    async def get_features(self, *, entity: str, ids: Ids, timeout_s: float | None = None) -> EntityFeatures:
        """See :meth:`Client.get_features`."""
        request = feature_store.features_request(entity, ids)
        return feature_store.entity_features(await self._answer("get_features", request, timeout_s), ids)

    async def get_history(
        self,
        *,
        user: Id,
        limit: int = 0,
        since_ms: int | None = None,
        until_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> UserHistory:
        """See :meth:`Client.get_history`."""
        request = feature_store.history_request(user, limit, since_ms, until_ms)
        return feature_store.user_history(await self._answer("get_history", request, timeout_s))

    async def get_histories(self, *, users: Ids, limit: int = 0, timeout_s: float | None = None) -> list[UserHistory]:
        """See :meth:`Client.get_histories`."""
        request = feature_store.histories_request(users, limit)
        return feature_store.user_histories(await self._answer("get_histories", request, timeout_s))

    async def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """See :meth:`Client.is_ready`."""
        try:
            return serving(await self._answer("health", HEALTH, timeout_s))
        except RpcError:
            return False

    async def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """See :meth:`Client.wait_ready`."""
        waiting = Waiting(self._limit_s(timeout_s, timeout_s))
        while True:
            left_s = waiting.left_s()
            try:
                if serving(await self._answer("health", HEALTH, left_s)):
                    return
            except RpcError as error:
                waiting.failed(error)
            await asyncio.sleep(READY_POLL_S)

    async def close(self) -> None:
        """See :meth:`Client.close`."""
        self._closed = True
        self._connection.close()
        await asyncio.gather(*self._closings)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _answer(self, name: str, request: Any, timeout_s: float | None) -> Any:
        limit_s = self._limit_s(timeout_s, self._timeout_s)
        retries = Retries(limit_s)
        while True:
            try:
                return await self._ask(name, request, limit_s)
            except Overloaded as error:
                await asyncio.sleep(retries.wait_s(error))
                limit_s = retries.left_s()

    async def _ask(self, name: str, request: Any, limit_s: float) -> Any:
        at_s = time.monotonic() + limit_s
        tls = self._connection.tls
        with self._connection.calls() as calls:
            try:
                with errors(tls=tls):
                    return await getattr(calls, name)(request, timeout=limit_s, metadata=self._token.metadata())
            except RpcError as error:
                left_s = at_s - time.monotonic()
                # Certificates may have changed on both sides since the last look at ours.
                if error.code != UNAVAILABLE or left_s <= 0 or not self._connection.replaced(calls):
                    raise
        with self._connection.calls() as calls, errors(tls=tls):
            return await getattr(calls, name)(request, timeout=left_s, metadata=self._token.metadata())

    def _close_soon(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.ensure_future(channel.close(None))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    def _limit_s(self, timeout_s: float | None, default_s: float) -> float:
        if self._closed:
            raise closed_error()
        return default_s if timeout_s is None else check_timeout_s(timeout_s)


def _channel(
    target: str, options: list[tuple[str, Any]], credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


async def _send(batches: Iterable[UserEvents] | AsyncIterable[UserEvents], call: Any, problem: list[Exception]) -> None:
    """Write all of them to the stream. An exception of their own ends it, and is put into ``problem``."""
    requests = _requests(batches)
    while True:
        try:
            request = await anext(requests, None)
        except Exception as error:
            problem.append(error)
            request = None
        try:
            if request is None:
                await call.done_writing()
                return
            await call.write(request)
        except (asyncio.InvalidStateError, grpc.RpcError):
            return  # the call has ended, and its answer says why


class _Core:
    """The inner part of gRPC's call, without what a write that fails does to the call's status."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, error: str) -> None:
        """Leave the status as it is, or to come."""


def _keep_status(call: Any) -> None:
    """Let the server's status be a stream's, also if a message was just being written when the server ended it: gRPC
    (1.85) makes that ``INTERNAL: Internal error from Core``, and why it was ended is lost."""
    if (core := getattr(call, "_cython_call", None)) is not None:
        call._cython_call = _Core(core)


async def _requests(batches: Iterable[UserEvents] | AsyncIterable[UserEvents]) -> AsyncIterator[Any]:
    index = 0
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield feature_store.stream_request(batch, index)
            index += 1
    else:
        for batch in batches:
            yield feature_store.stream_request(batch, index)
            index += 1
