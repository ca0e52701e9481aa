"""FeatureStore service: each call is convert, do, convert, under the caller's deadline.

Handlers are threads; what they do runs on the store's event loop. There many calls' round trips overlap, and none of
them holds up a Rank call's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import TypeVar

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, OverloadedError, StoreFormatError
from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.feature_set import ITEM, Categorical
from recsys.features.history.records import event_dtype
from recsys.features.names import Names
from recsys.proto import feature_store_pb2 as pb
from recsys.proto import ranker_pb2
from recsys.proto.limits import OFFSET_JUMP
from recsys.serving.current_call import note_refusal, running_call
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.append import Append, AppendStream, append_stream, as_declared, write
from recsys.serving.handlers.names import KeyColumn, find_texts
from recsys.serving.handlers.store_slot import ServedStore, StoreSlot
from recsys.serving.inference.pace import Pace, Work
from recsys.serving.rpc.bounds import check_bounds
from recsys.serving.rpc.calls import Context, Response, abort_on_error, deadline_of, run_on_loop
from recsys.serving.rpc.convert import entities as convert_entities
from recsys.serving.rpc.convert import events as convert_events
from recsys.serving.rpc.streams.fair_share import Holder, holder_of
from recsys.serving.rpc.streams.open_streams import OpenStreams, StreamEnded
from recsys.serving.settings import Settings

MAX_STREAMS = 32
"""Streams open at a time: each keeps two threads, once its first message is here."""

_STREAM_S = 600.0
"""Time a stream may take when its caller set no deadline."""

_BATCH_S = 5.0
"""Time for a batch of a stream: a store that is away ends a stream in that time, however long that may last."""

_PLACE_POLL_S = 0.01

_CALL_UNITS = 100
"""Work of a call beside that for its events and entities, in these; and of a turn that it has among others."""

_UNIT_S = 2e-6
"""Guess of the time that an event or entity takes, until it is measured."""

_EVENTS = 100
"""Events that a read without a limit counts as."""

Message = TypeVar("Message")

_Call = Callable[[Message, ServedStore, Deadline], Awaitable[Response]]


class FeatureStoreService:
    """The service. A call is admitted as a whole, a stream batch by batch.

    Args:
        stores: the store that there is at a call's start; used on ``loop`` only.
        settings: the server's.
        loop: runs in another thread.
        names: gives the texts of string ids that came with the models served now, by embedding table.
        on_items_put: gets the keys, [N], of items that PutEntities has stored; in any thread.
    """

    def __init__(
        self,
        stores: StoreSlot,
        settings: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        names: Callable[[], Mapping[str, Names]] = dict,
        on_items_put: Callable[[Int64Array], None] = lambda keys: None,
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._loop = loop
        self._names = names
        self._on_items_put = on_items_put
        self._admission = Admission(settings.max_in_flight)
        self._pace = Pace(_UNIT_S)
        self._units = 0
        self._streams = OpenStreams(MAX_STREAMS, idle_limit_s=settings.stream_idle_timeout_s)

    def AppendEvents(self, message: pb.AppendEventsRequest, context: Context) -> pb.AppendEventsResponse:
        """Add events to a user's history."""
        return self._admitted(context, self._append, message, convert_events.event_count(message))

    def AppendEventStream(
        self, messages: Iterator[pb.AppendEventsRequest], context: Context
    ) -> pb.AppendEventStreamResponse:
        """Add events to the histories of many users."""

        def work() -> pb.AppendEventStreamResponse:
            deadline = deadline_of(context, default_s=_STREAM_S)
            call = running_call()
            holder = holder_of(context.peer(), "" if call is None else call.caller)
            return run_on_loop(context, self._loop, self._append_stream(messages, holder, deadline), deadline)

        return abort_on_error(context, work)

    def PutEntities(self, message: pb.PutEntitiesRequest, context: Context) -> pb.PutEntitiesResponse:
        """Store the features of many entities."""
        return self._admitted(context, self._put, message, _count(message.ids))

    def WithdrawItems(self, message: pb.WithdrawItemsRequest, context: Context) -> pb.WithdrawItemsResponse:
        """Withdraw items."""
        return self._admitted(context, self._withdraw, message, _count(message.items))

    def GetFeatures(self, message: pb.GetFeaturesRequest, context: Context) -> pb.GetFeaturesResponse:
        """Read the stored features of many entities."""
        return self._admitted(context, self._get_features, message, _count(message.ids))

    def GetHistory(self, message: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        """Read the newest events of a user."""
        return self._admitted(context, self._history, message, message.limit or _EVENTS)

    def GetHistories(self, message: pb.GetHistoriesRequest, context: Context) -> pb.GetHistoriesResponse:
        """Read the newest events of many users."""
        count = _count(message.users) * (message.limit or _EVENTS)
        return self._admitted(context, self._histories, message, count)

    def _admitted(self, context: Context, call: _Call[Message, Response], message: Message, count: int) -> Response:
        """Make a call of so many events or entities, if there is room and time for it."""
        deadline = deadline_of(context, default_s=self._settings.default_deadline_ms / 1000)

        async def admitted() -> Response:
            # Here, not in the handler: what a caller that left has begun keeps its place until it ends.
            with self._place(count, left_s=deadline.remaining_s()):
                return await self._answer(call, message, deadline)

        return abort_on_error(context, lambda: run_on_loop(context, self._loop, admitted(), deadline))

    @contextmanager
    def _place(self, count: int, *, left_s: float = math.inf) -> Iterator[None]:
        """Hold a place for work on so many events or entities; only on the loop.

        The loop and Redis work for all calls in turns, so one takes longer the more there are beside it.
        """
        units = _CALL_UNITS + min(count, convert_events.MAX_EVENTS_OF_USERS)
        with self._admission.enter(Work(self._pace.seconds(units), self._pace.seconds(_CALL_UNITS)), left_s=left_s):
            turns = -(-units // _CALL_UNITS) * _CALL_UNITS * (self._admission.in_flight - 1)
            together, began_s = units + min(turns, self._units), time.monotonic()
            self._units += units
            try:
                yield
            finally:
                self._units -= units
            self._pace.measured(together, took_s=time.monotonic() - began_s)

    async def _answer(self, call: _Call[Message, Response], message: Message, deadline: Deadline) -> Response:
        """A call's answer by the store there is, and again by the one that follows if what is stored became that's."""
        served = self._stores.current()
        while True:
            try:
                return await call(message, served, deadline)
            except StoreFormatError:
                if (following := await self._stores.after_refusal(served)) is None:
                    raise
                served = following

    async def _append(
        self, message: pb.AppendEventsRequest, served: ServedStore, deadline: Deadline
    ) -> pb.AppendEventsResponse:
        append = self._checked(message, served)
        (result,) = await write(served.store, served.features, [append], deadline=deadline, offset_jump=OFFSET_JUMP)
        if result.refused is not None:
            raise result.refused
        return convert_events.append_response(result)

    async def _append_stream(
        self, messages: Iterator[pb.AppendEventsRequest], holder: Holder, deadline: Deadline
    ) -> pb.AppendEventStreamResponse:
        ended: StreamEnded | None = None
        with self._streams.enter(holder) as opened:
            async with (
                append_stream(self._write_batch, timeout_s=deadline.remaining_s()) as stream,
                aclosing(opened.read(messages)) as received,
            ):
                try:
                    async for message in received:
                        await self._take(message, stream)
                except StreamEnded as end:  # what has come before it is written all the same
                    ended = end
            if ended is not None:
                if isinstance(ended.error, OverloadedError):
                    note_refusal("streams")
                raise type(ended.error)(f"{ended}; {stream.progress()}")
            return convert_events.stream_response(stream.summary())

    async def _take(self, message: pb.AppendEventsRequest, stream: AppendStream) -> None:
        try:
            check_bounds(message)
            append = self._checked(message, self._stores.current())
        except InvalidInputError as error:
            stream.reject(convert_events.event_count(message), error)
        else:
            await stream.add(append)

    async def _write_batch(self, batch: Sequence[Append]) -> list[AppendResult]:
        deadline = Deadline.after(_BATCH_S)
        with ExitStack() as place:
            while True:
                try:
                    place.enter_context(self._place(sum(len(append.events) for append in batch)))
                    break
                except OverloadedError:
                    # A stream can wait, and its sender with it; those who wait for one answer go first.
                    if deadline.at_s - time.monotonic() < 2 * _PLACE_POLL_S:
                        raise
                    await asyncio.sleep(_PLACE_POLL_S)
            return await self._written(batch, self._stores.current(), deadline)

    async def _written(self, batch: Sequence[Append], served: ServedStore, deadline: Deadline) -> list[AppendResult]:
        """Write a batch as :meth:`_answer` would: what the store refuses, again by the one that follows."""
        appends = [as_declared(append, served.features) for append in batch]
        try:
            results = await write(served.store, served.features, appends, deadline=deadline, offset_jump=OFFSET_JUMP)
        except StoreFormatError:
            if (following := await self._stores.after_refusal(served)) is None:
                raise
            return await self._written(batch, following, deadline)
        left = [place for place, result in enumerate(results) if isinstance(result.refused, StoreFormatError)]
        if left and (following := await self._stores.after_refusal(served)) is not None:
            again = await self._written([batch[place] for place in left], following, deadline)
            for place, result in zip(left, again, strict=True):
                results[place] = result
        return results

    def _checked(self, message: pb.AppendEventsRequest, served: ServedStore) -> Append:
        return convert_events.append_request(
            message, served.features, future_tolerance_s=self._settings.future_tolerance_s
        )

    async def _put(
        self, message: pb.PutEntitiesRequest, served: ServedStore, deadline: Deadline
    ) -> pb.PutEntitiesResponse:
        store, features = served
        entity, keys, columns = convert_entities.put_request(message, features)
        await store.put_names(convert_entities.put_texts(message, features), timeout_s=deadline.remaining_s())
        await store.put_entities(entity, keys, columns, timeout_s=deadline.remaining_s())
        if entity == ITEM:  # in a thread: a page that is not in memory would hold up all calls of the store
            await asyncio.to_thread(self._on_items_put, keys)
        return pb.PutEntitiesResponse()

    async def _withdraw(
        self, message: pb.WithdrawItemsRequest, served: ServedStore, deadline: Deadline
    ) -> pb.WithdrawItemsResponse:
        keys = convert_entities.withdraw_request(message, served.features)
        await served.store.withdraw_items(keys, timeout_s=deadline.remaining_s())
        return pb.WithdrawItemsResponse()

    async def _get_features(
        self, message: pb.GetFeaturesRequest, served: ServedStore, deadline: Deadline
    ) -> pb.GetFeaturesResponse:
        store, features = served
        entity, keys = convert_entities.features_request(message, features)
        rows = await store.entity_rows(entity, keys, timeout_s=deadline.remaining_s())
        await self._raise_if_followed(served, rows.damaged.values())
        given = [(f, rows.columns[f.name]) for f in features.entity(entity).features if isinstance(f, Categorical)]
        texts = await self._texts(store, given, deadline)
        return convert_entities.features_response(features.entity(entity), rows, texts)

    async def _history(
        self, message: pb.GetHistoryRequest, served: ServedStore, deadline: Deadline
    ) -> pb.GetHistoryResponse:
        store, features = served
        wanted = convert_events.history_request(message, features)
        header, events = await store.history(
            wanted.user_key,
            limit=wanted.limit,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
            timeout_s=deadline.remaining_s(),
        )
        texts = await self._texts(store, convert_events.key_columns(events, features), deadline)
        return convert_events.history_response(header, events, features, texts)

    async def _histories(
        self, message: pb.GetHistoriesRequest, served: ServedStore, deadline: Deadline
    ) -> pb.GetHistoriesResponse:
        store, features = served
        keys, limit = convert_events.histories_request(message, features)
        histories = await store.each_history(keys, limit=limit, timeout_s=deadline.remaining_s())
        await self._raise_if_followed(served, [read for read in histories if isinstance(read, StoreFormatError)])
        none = np.empty(0, dtype=event_dtype(features))
        every = np.concatenate([none, *(read[1] for read in histories if not isinstance(read, StoreFormatError))])
        texts = await self._texts(store, convert_events.key_columns(every, features), deadline)
        return convert_events.histories_response(histories, every, features, texts)

    async def _raise_if_followed(self, served: ServedStore, damaged: Iterable[Exception]) -> None:
        """Raise the first of an answer's damages if another store follows, which may read what this one cannot."""
        for error in damaged:
            if await self._stores.after_refusal(served) is not None:
                raise error
            return

    async def _texts(self, store: FeatureStore, columns: Sequence[KeyColumn], deadline: Deadline) -> dict[int, str]:
        return await find_texts(store, self._names(), columns, deadline=deadline)


def _count(ids: ranker_pb2.Ids) -> int:
    """Count ids, right or wrong."""
    return max(len(ids.integers), len(ids.texts))
