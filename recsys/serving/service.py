"""The gRPC services: each call is convert, do, convert, under the caller's deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Container
from typing import Any, NoReturn, TypeVar

import grpc

from recsys.errors import StoreError
from recsys.feature_store.base import FeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.features.history import Events, inherited_attributes
from recsys.serving import convert
from recsys.serving._pb import feature_store_pb2, ranker_pb2
from recsys.serving.admission import Admission, Deadline
from recsys.serving.ranker import Ranker
from recsys.serving.settings import Settings
from recsys.serving.status import STORE_TRAILER, status_of

RANKER = ranker_pb2.DESCRIPTOR.services_by_name["Ranker"].full_name
FEATURE_STORE = feature_store_pb2.DESCRIPTOR.services_by_name["FeatureStore"].full_name

Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class RankerService:
    """``recsys.v1.Ranker``."""

    def __init__(self, ranker: Ranker, settings: Settings) -> None:
        self._ranker = ranker
        self._settings = settings

    async def Rank(self, message: ranker_pb2.RankRequest, context: Context) -> ranker_pb2.RankResponse:
        """Score candidates."""
        return await _answer(context, self._rank(message, _deadline(context, self._settings)))

    async def _rank(self, message: ranker_pb2.RankRequest, deadline: Deadline) -> ranker_pb2.RankResponse:
        request = convert.rank_request(message, self._ranker.features, max_candidates=self._settings.max_candidates)
        return convert.rank_response(await self._ranker.rank(request, deadline=deadline))


class FeatureStoreService:
    """``recsys.v1.FeatureStore``."""

    def __init__(self, store: FeatureStore, features: FeatureSet, settings: Settings) -> None:
        self._store = store
        self._features = features
        self._settings = settings
        self._admission = Admission(settings.max_in_flight)

    async def AppendEvents(
        self, message: feature_store_pb2.AppendEventsRequest, context: Context
    ) -> feature_store_pb2.AppendEventsResponse:
        """Add events to a user's history."""
        return await _answer(context, self._append(message, _deadline(context, self._settings)))

    async def GetHistory(
        self, message: feature_store_pb2.GetHistoryRequest, context: Context
    ) -> feature_store_pb2.GetHistoryResponse:
        """The newest events of a user."""
        return await _answer(context, self._history(message, _deadline(context, self._settings)))

    async def _append(
        self, message: feature_store_pb2.AppendEventsRequest, deadline: Deadline
    ) -> feature_store_pb2.AppendEventsResponse:
        with self._admission.enter():
            user_key, events = convert.append_request(
                message, self._features, future_tolerance_s=self._settings.future_tolerance_s
            )
            await self._fill_from_items(events, message.events.attributes, deadline)
            result = await self._store.append(user_key, events, timeout_s=deadline.remaining_s())
        return convert.append_response(result)

    async def _fill_from_items(self, events: Events, sent: Container[str], deadline: Deadline) -> None:
        """Give events the attributes of their items, as ``data.events`` does for a log."""
        if names := inherited_attributes(self._features, sent=sent):
            columns = await self._store.items(events["item"], timeout_s=deadline.remaining_s())
            for name in names:
                events[name] = columns[name]

    async def _history(
        self, message: feature_store_pb2.GetHistoryRequest, deadline: Deadline
    ) -> feature_store_pb2.GetHistoryResponse:
        with self._admission.enter():
            user_key, limit = convert.history_request(message, self._features)
            header, events = await self._store.history(user_key, limit=limit, timeout_s=deadline.remaining_s())
        return convert.history_response(header, events, self._features)


def _deadline(context: Context, settings: Settings) -> Deadline:
    remaining_s = context.time_remaining()
    return Deadline.after(settings.default_deadline_ms / 1000 if remaining_s is None else remaining_s)


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
