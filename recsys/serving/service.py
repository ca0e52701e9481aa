"""The gRPC services: each call is convert, do, convert, under the caller's deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, TypeVar

import grpc

from recsys.errors import InvalidInputError, OverloadedError, StoreError
from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.serving import convert, convert_entities, convert_events
from recsys.serving._pb import feature_store_pb2 as pb
from recsys.serving._pb import ranker_pb2
from recsys.serving.admission import Admission, Deadline
from recsys.serving.append import Append, append_stream, write
from recsys.serving.ranker import Ranker
from recsys.serving.settings import Settings
from recsys.serving.status import STORE_TRAILER, status_of

RANKER = ranker_pb2.DESCRIPTOR.services_by_name["Ranker"].full_name
FEATURE_STORE = pb.DESCRIPTOR.services_by_name["FeatureStore"].full_name

_STREAM_S = 600.0
"""Time a stream may take when its caller set no deadline."""

_BATCH_S = 5.0
"""Time for a batch of a stream: a store that is away ends a stream in that time, however long that may last."""

_PLACE_POLL_S = 0.01

Context = grpc.aio.ServicerContext[Any, Any]
Message = TypeVar("Message")
Answer = TypeVar("Answer")


class RankerService:
    """``recsys.v1.Ranker``."""

    def __init__(self, ranker: Ranker, settings: Settings) -> None:
        self._ranker = ranker
        self._settings = settings

    async def Rank(self, message: ranker_pb2.RankRequest, context: Context) -> ranker_pb2.RankResponse:
        """Score candidates."""
        deadline = _deadline(context, default_s=self._settings.default_deadline_ms / 1000)
        return await _answer(context, self._rank(message, deadline))

    async def _rank(self, message: ranker_pb2.RankRequest, deadline: Deadline) -> ranker_pb2.RankResponse:
        request = convert.rank_request(message, self._ranker.features, max_candidates=self._settings.max_candidates)
        return convert.rank_response(await self._ranker.rank(request, deadline=deadline))


class FeatureStoreService:
    """``recsys.v1.FeatureStore``. A call is admitted as a whole, a stream batch by batch."""

    def __init__(self, store: FeatureStore, features: FeatureSet, settings: Settings) -> None:
        self._store = store
        self._features = features
        self._settings = settings
        self._admission = Admission(settings.max_in_flight)

    async def AppendEvents(self, message: pb.AppendEventsRequest, context: Context) -> pb.AppendEventsResponse:
        """Add events to a user's history."""
        return await self._admitted(context, self._append, message)

    async def AppendEventStream(
        self, messages: AsyncIterator[pb.AppendEventsRequest], context: Context
    ) -> pb.AppendEventStreamResponse:
        """Add events to the histories of many users."""
        return await _answer(context, self._append_stream(messages, _deadline(context, default_s=_STREAM_S)))

    async def PutEntities(self, message: pb.PutEntitiesRequest, context: Context) -> pb.PutEntitiesResponse:
        """Store the features of many entities."""
        return await self._admitted(context, self._put, message)

    async def GetFeatures(self, message: pb.GetFeaturesRequest, context: Context) -> pb.GetFeaturesResponse:
        """The stored features of many entities."""
        return await self._admitted(context, self._get_features, message)

    async def GetHistory(self, message: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        """The newest events of a user."""
        return await self._admitted(context, self._history, message)

    async def GetHistories(self, message: pb.GetHistoriesRequest, context: Context) -> pb.GetHistoriesResponse:
        """The newest events of many users."""
        return await self._admitted(context, self._histories, message)

    async def _admitted(
        self, context: Context, call: Callable[[Message, Deadline], Awaitable[Answer]], message: Message
    ) -> Answer:
        async def work() -> Answer:
            with self._admission.enter():
                return await call(message, _deadline(context, default_s=self._settings.default_deadline_ms / 1000))

        return await _answer(context, work())

    async def _append(self, message: pb.AppendEventsRequest, deadline: Deadline) -> pb.AppendEventsResponse:
        append = self._checked(message)
        (result,) = await write(self._store, self._features, [append], deadline=deadline)
        if result.refused is not None:
            raise result.refused
        return convert_events.append_response(result)

    async def _append_stream(
        self, messages: AsyncIterator[pb.AppendEventsRequest], deadline: Deadline
    ) -> pb.AppendEventStreamResponse:
        async with append_stream(self._write_batch, timeout_s=deadline.remaining_s()) as stream:
            async for message in messages:
                try:
                    append = self._checked(message)
                except InvalidInputError as error:
                    stream.reject(convert_events.event_count(message), error)
                else:
                    await stream.add(append)
        return convert_events.stream_response(stream.summary())

    async def _write_batch(self, batch: Sequence[Append]) -> list[AppendResult]:
        deadline = Deadline.after(_BATCH_S)
        with ExitStack() as place:
            while True:
                try:
                    place.enter_context(self._admission.enter())
                    break
                except OverloadedError:
                    # A stream can wait, and its sender with it; those who wait for one answer go first.
                    if deadline.at_s - time.monotonic() < 2 * _PLACE_POLL_S:
                        raise
                    await asyncio.sleep(_PLACE_POLL_S)
            return await write(self._store, self._features, batch, deadline=deadline)

    def _checked(self, message: pb.AppendEventsRequest) -> Append:
        return convert_events.append_request(
            message, self._features, future_tolerance_s=self._settings.future_tolerance_s
        )

    async def _put(self, message: pb.PutEntitiesRequest, deadline: Deadline) -> pb.PutEntitiesResponse:
        entity, keys, columns = convert_entities.put_request(message, self._features)
        await self._store.put_entities(entity, keys, columns, timeout_s=deadline.remaining_s())
        return pb.PutEntitiesResponse()

    async def _get_features(self, message: pb.GetFeaturesRequest, deadline: Deadline) -> pb.GetFeaturesResponse:
        entity, keys = convert_entities.features_request(message, self._features)
        columns = await self._store.entities(entity, keys, timeout_s=deadline.remaining_s())
        return convert_entities.features_response(columns)

    async def _history(self, message: pb.GetHistoryRequest, deadline: Deadline) -> pb.GetHistoryResponse:
        wanted = convert_events.history_request(message, self._features)
        header, events = await self._store.history(
            wanted.user_key,
            limit=wanted.limit,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
            timeout_s=deadline.remaining_s(),
        )
        return convert_events.history_response(header, events, self._features)

    async def _histories(self, message: pb.GetHistoriesRequest, deadline: Deadline) -> pb.GetHistoriesResponse:
        keys, limit = convert_events.histories_request(message, self._features)
        histories = await self._store.histories(keys, limit=limit, timeout_s=deadline.remaining_s())
        return convert_events.histories_response(histories, self._features)


def _deadline(context: Context, *, default_s: float) -> Deadline:
    remaining_s = context.time_remaining()
    return Deadline.after(default_s if remaining_s is None else remaining_s)


async def _answer(context: Context, work: Awaitable[Answer]) -> Answer:
    """The result of ``work``, or the status its error stands for. A cancelled call passes through."""
    try:
        return await work
    except Exception as error:
        code, message = status_of(error)
        trailers = (STORE_TRAILER,) if isinstance(error, StoreError) else ()
    await _abort(context, code, message, trailers)


async def _abort(
    context: Context, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, str], ...]
) -> NoReturn:
    await context.abort(code, message, trailers)
    raise AssertionError("abort always raises")
