"""RefusingServer: gRPC's server, whose one thread of events refuses calls at the door before anything is made for them.

**This file uses internals of grpcio** (``grpc._server``), as ``handler_pool.py`` does, where they are compared.

gRPC makes a state with a lock and a context for each call, runs all interceptors and waits for the call's end apart
from its status. Of five calls under five times the load four need nothing of it. Refused here a call takes 147 us of
the processor's time, kernel included, where it took 267, in turns on a machine where an answer took 7 ms.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

from recsys.serving.process.listening.handler_pool import HandlerPool, Record
from recsys.serving.rpc.calls import trailers_of
from recsys.serving.rpc.door import Door

_server: Any = importlib.import_module("grpc._server")
_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

_CODE = grpc.StatusCode.RESOURCE_EXHAUSTED


class RefusingServer(_server._Server):  # type: ignore[misc]  # grpcio's own class has no types
    """A gRPC server with a door.

    Args:
        pool: stands for its thread pool.
        interceptors, options: as of ``grpc.server``.
        door: refuses calls by their path and deadline.
        record: told of each call that it refuses.
    """

    def __init__(
        self, pool: HandlerPool, *, interceptors: Sequence[Any], options: Sequence[Any], door: Door, record: Record
    ) -> None:
        super().__init__(pool, (), interceptors, options, None, None, False)
        self._door = door
        self._record = record

    def start(self) -> None:
        """Start it: as ``grpc._server._start``, with :func:`_serve` for its thread."""
        state = self._state
        with state.lock:
            state.server.start()
            state.stage = _server._ServerStage.STARTED
            for method in state.registered_method_handlers:
                _server._request_registered_call(state, method)
            _server._request_call(state)
            # Not self, of which gRPC wants to know when nobody has it any more.
            threading.Thread(target=_serve, args=(state, self._door, self._record), daemon=True).start()


class _Refused:
    """Stands for the state of a refused call until gRPC is done with it."""

    __slots__ = ()

    def __call__(self, event: Any) -> tuple[_Refused, tuple[()]]:
        """Take the call's only event: nothing is left to do."""
        return self, ()


def _serve(state: Any, door: Door, record: Record) -> None:
    """As ``grpc._server._serve``, but a new call goes to the door first."""
    new_call, timed_out = _cygrpc.RequestCallEvent, _cygrpc.CompletionType.queue_timeout
    poll, proceed = state.completion_queue.poll, _server._process_event_and_continue
    while True:
        event = poll(time.time() + _server._DEALLOCATED_SERVER_CHECK_PERIOD_S)
        if state.server_deallocated:
            _server._begin_shutdown_once(state)
        if type(event) is new_call and event.success and _refuses(state, event, door, record):
            pass
        elif event.completion_type != timed_out and not proceed(state, event):
            return
        event = None  # before the next one is waited for, as gRPC does


def _refuses(state: Any, event: Any, door: Door, record: Record) -> bool:
    """Refuse a new call, by one batch; False: it is let in. A method's calls come with its path for a tag."""
    path = event.tag
    if path not in state.registered_method_handlers or (error := door(path, event.call_details.deadline)) is None:
        return False
    message, flags, refused = str(error), _server._EMPTY_FLAGS, _Refused()
    operations = (
        _cygrpc.SendInitialMetadataOperation(None, flags),
        _cygrpc.ReceiveCloseOnServerOperation(flags),
        _cygrpc.SendStatusFromServerOperation(
            trailers_of(error), _server._application_code(_CODE), message.encode(), flags
        ),
    )
    with state.lock:
        event.call.start_server_batch(operations, refused)
        state.rpc_states.add(refused)
        state.due.remove(path)
        if state.stage is _server._ServerStage.STARTED:
            _server._request_registered_call(state, path)
    record("no_time", path, _CODE, message)
    return True
