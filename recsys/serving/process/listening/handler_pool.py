"""HandlerPool: gives a call its thread when its message is here. With gRPC's own pool, a thread waits for the message.

**This file uses internals of grpcio** (``grpc._server``, read in version 1.85.1), which may change with any release.
:func:`changed_internals` compares them at the start, and ``tests/serving/process/listening/test_handler_pool.py`` fails
when an upgrade changes a line of them: read that module again then, this file and ``refusing_server.py``. Without them
a server takes gRPC's way (``grpc_server.py``).

There, ``_handle_unary_unary`` submits ``state.context.run(_unary_response_in_pool, event, state, behavior, argument,
decode, encode)``; ``argument`` asks for the message and waits. Here the message is asked for first, by the same batch;
when that has come, gRPC's one thread of events calls :meth:`_Arrival.received`, and the handler gets a thread, and an
``argument`` that need not wait.

All of a call's state is changed under its ``condition``, as gRPC does. It holds a new call's around ``submit``, where
another call may be ended for it: one that waits for its message, whose condition nobody else holds for long.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

import grpc

from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.process.listening.rooms import Room
from recsys.serving.process.listening.waiting import EarlyEnd, WaitingCalls
from recsys.serving.rpc.early_ends import CALLED_METHOD

_server: Any = importlib.import_module("grpc._server")
_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
_log = RateLimitedLog(logging.getLogger("recsys.serving"))

_PARAMETERS = {
    "_Server": "thread_pool generic_handlers interceptors options maximum_concurrent_rpcs compression xds",
    "_abort": "state call code details",
    "_application_code": "code",
    "_begin_shutdown_once": "state",
    "_is_rpc_state_active": "state",
    "_process_event_and_continue": "state event",
    "_receive_message": "state call request_deserializer",
    "_request_call": "state",
    "_request_registered_call": "state method",
    "_unary_request": "rpc_event state request_deserializer",
    "_unary_response_in_pool": ("rpc_event state behavior argument_thunk request_deserializer response_serializer"),
    "_stream_response_in_pool": ("rpc_event state behavior argument_thunk request_deserializer response_serializer"),
}
_SERVER_STATE = "completion_queue due lock registered_method_handlers rpc_states server server_deallocated stage"
_STATE = ("callbacks", "client", "condition", "context", "due", "request", "statused", "trailing_metadata")
_WAITS_FOR_ONE = "_unary_request.<locals>.unary_request"
_ARGUMENTS = 7

ANSWER_TIMEOUT_S = 30.0
"""Time for a caller to take its answer: until then that is kept in memory."""

# gRPC wants a future to count calls by, which is not done here.
_DONE: Future[None] = Future()
_DONE.set_result(None)


def changed_internals() -> str:
    """Compare grpcio's internals with what is used here; returns the first difference, or an empty text."""
    try:
        for name, expected in _PARAMETERS.items():
            found = " ".join(inspect.signature(getattr(_server, name)).parameters)
            if found != expected:
                return f"grpc._server.{name} takes ({found}), not ({expected})"
        state = _server._RPCState()
        for name in _STATE:
            if not hasattr(state, name):
                return f"grpc._server._RPCState has no {name}"
        if (found := _server._unary_request(None, state, None).__qualname__) != _WAITS_FOR_ONE:
            return f"grpc._server._unary_request gives {found}"
        for name in _SERVER_STATE.split():
            if name not in _server._ServerState.__annotations__:
                return f"grpc._server._ServerState has no {name}"
        for module, name in (
            (_server, "_DEALLOCATED_SERVER_CHECK_PERIOD_S"),
            (_server._ServerStage, "STARTED"),
            (_server, "_RECEIVE_MESSAGE_TOKEN"),
            (_server, "_CANCELLED"),
            (_server, "_EMPTY_FLAGS"),
            (_cygrpc, "ReceiveCloseOnServerOperation"),
            (_cygrpc, "ReceiveMessageOperation"),
            (_cygrpc, "RequestCallEvent"),
            (_cygrpc, "SendInitialMetadataOperation"),
            (_cygrpc, "SendStatusFromServerOperation"),
            (_cygrpc.CompletionType, "queue_timeout"),
            (_cygrpc.Call, "peer"),
        ):
            getattr(module, name)
    except Exception as error:  # whatever it may be, the server must start
        return f"{type(error).__name__}: {error}"
    return ""


class Record(Protocol):
    """Counts and logs a call that ends before a handler has it: reason, path, status (None: not ours), message."""

    def __call__(self, reason: str, path: str, code: grpc.StatusCode | None, message: str) -> None: ...


class HandlerPool:
    """Stands for the thread pool of a gRPC server.

    Args:
        room: gives the room of a method, by its path.
        waiting: the calls whose message is not here.
        unread: the calls whose answer their caller has not taken.
        receive_timeout_s: time for a call's message.
        stream_idle_timeout_s: time for the first message of a stream.
        record: told of each call that ends before a handler has it.
    """

    def __init__(
        self,
        room: Callable[[str], Room],
        waiting: WaitingCalls,
        unread: WaitingCalls,
        *,
        receive_timeout_s: float,
        stream_idle_timeout_s: float,
        record: Record,
    ) -> None:
        self.room = room
        self.waiting = waiting
        self.unread = unread
        self.receive_timeout_s = receive_timeout_s
        self.stream_idle_timeout_s = stream_idle_timeout_s
        self.record = record

    def submit(self, run: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Take a call from gRPC, which holds its ``condition``; returns a future that is done."""
        handles = (_server._unary_response_in_pool, _server._stream_response_in_pool)
        if len(arguments) != _ARGUMENTS or arguments[0] not in handles:
            return self.room("").threads.submit(run, *arguments)
        _Arrival(self, run, arguments).begin()
        return _DONE


class _Arrival:
    """A call from its start until its message is here, or it was ended."""

    __slots__ = (
        "_answer_bytes", "_behavior", "_decode", "_encode", "_event", "_handle", "_iterates", "_path", "_pool",
        "_receive", "_run", "_state", "_thunk", "_waiting",
    )  # fmt: skip

    def __init__(self, pool: HandlerPool, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._pool, self._run = pool, run
        self._handle, self._event, self._state, self._behavior, self._thunk, self._decode, self._encode = arguments
        self._path: str = self._state.context.get(CALLED_METHOD, "")
        self._answer_bytes = 0
        self._iterates = self._thunk.__qualname__ != _WAITS_FOR_ONE
        self._receive = _server._receive_message(self._state, self._event.call, self._decode)

    def begin(self) -> None:
        """Ask for the first message. Under the call's condition."""
        pool = self._pool
        limit_s = pool.stream_idle_timeout_s if self._iterates else pool.receive_timeout_s
        self._waiting = pool.waiting.add(limit_s, self._end_waiting)
        self._state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        operation = _cygrpc.ReceiveMessageOperation(_server._EMPTY_FLAGS)
        self._event.call.start_server_batch((operation,), self.received)

    def received(self, event: Any) -> Any:
        """Take the message, or its lack; what gRPC's own callback returns."""
        state = self._state
        with state.condition:
            done = self._receive(event)
            message, state.request = state.request, None
            if not self._pool.waiting.remove(self._waiting):
                return done  # it was ended before
            if message is not None:
                self._start(message)
            elif state.statused:
                self._pool.record("malformed", self._path, grpc.StatusCode.INTERNAL, "gRPC cannot decode the message")
            elif self._iterates and state.client is not _server._CANCELLED:
                self._start(None)
            else:
                # A caller that leaves looks the same for a moment, and so does a message that is too long for gRPC.
                why = "the call ended without a message, or with one that is too long"
                self._pool.record("incomplete", self._path, None, why)
                self._pool.waiting.note_left()
                self._abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message; expected: one")
        return done

    def _start(self, message: Any) -> None:
        state, argument = self._state, message
        if self._iterates:
            rest: Iterable[Any] = self._thunk()
            argument = iter(()) if message is None else itertools.chain((message,), rest)

        def argument_if_needed() -> Any:
            return argument if _server._is_rpc_state_active(state) else None

        room = self._pool.room(self._path)
        rest_of_it = (argument_if_needed, self._decode, self._encoded)
        try:
            started = room.start(
                self._event.call.cancel,
                self._answer,
                self._handle,
                self._event,
                state,
                self._behavior,
                *rest_of_it,
                peer=lambda: self._event.call.peer().decode(),
            )
            refusal = f"{room.most} calls are being handled, the limit; retry with backoff"
        except Exception as error:  # raised here it would end gRPC's thread of events, and with it the server
            _log.warning("no thread", "a call cannot be handled: %s", error)
            started, refusal = False, "the server has no thread for the call; retry with backoff"
        if not started:
            self._refuse("full", grpc.StatusCode.RESOURCE_EXHAUSTED, refusal)

    def _answer(self, *arguments: Any) -> None:
        """Run the handler; its answer waits for the caller to take it, but not for ever."""
        try:
            self._run(*arguments)
        finally:
            unread = self._pool.unread
            with self._state.condition:
                if (callbacks := self._state.callbacks) is not None:
                    call = unread.add(ANSWER_TIMEOUT_S, self._end_unread, size_bytes=self._answer_bytes)
                    callbacks.append(lambda: unread.remove(call))

    def _encoded(self, answer: Any) -> Any:
        data = answer if self._encode is None else self._encode(answer)
        self._answer_bytes = len(data)
        return data

    def _end_unread(self, reason: EarlyEnd, waited_s: float) -> None:
        why = f"the answer was not taken for {waited_s:.1f} s"
        if reason == "crowded_out":
            why += "; ended for newer ones, as too many wait, or too much is kept for them"
        self._event.call.cancel()
        self._pool.record("unread", self._path, None, why)

    def _end_waiting(self, reason: EarlyEnd, waited_s: float) -> None:
        """End the call: its message came not in time."""
        what = "a message" if self._iterates else "the call's message"
        waited = f"waited {waited_s:.1f} s for {what}"
        if reason == "late":
            variable = "RECSYS_STREAM_IDLE_TIMEOUT_S" if self._iterates else "RECSYS_RECEIVE_TIMEOUT_S"
            self._refuse(reason, grpc.StatusCode.DEADLINE_EXCEEDED, f"{waited}, the limit ({variable})")
        elif reason == "crowded_out":
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            self._refuse(reason, code, f"{waited}; ended for a newer call, as too many wait; retry with backoff")
        else:
            self._refuse(reason, grpc.StatusCode.UNAVAILABLE, f"{waited}; the server is draining")

    def _refuse(self, reason: str, code: grpc.StatusCode, message: str) -> None:
        self._abort(code, message)
        self._pool.record(reason, self._path, code, message)

    def _abort(self, code: grpc.StatusCode, message: str) -> None:
        with self._state.condition:
            if _server._is_rpc_state_active(self._state):
                _server._abort(self._state, self._event.call, _server._application_code(code), message.encode())
