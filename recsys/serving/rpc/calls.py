"""What all calls have in common: the caller's deadline, and errors as statuses. Handlers run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, NoReturn, TypeVar

import grpc

from recsys.errors import StoreError
from recsys.proto.trailers import STORE_TRAILER
from recsys.serving.deadline import Deadline
from recsys.serving.rpc.statuses import status_of

Context = grpc.ServicerContext
Answer = TypeVar("Answer")

_NEVER_S = 1e9
"""gRPC tells of no deadline as one that is ages away."""


def deadline_of(context: Context, *, default_s: float) -> Deadline:
    """The call's deadline, which also knows when the caller has left."""
    remaining_s = context.time_remaining()
    timeout_s = default_s if remaining_s is None or remaining_s > _NEVER_S else remaining_s
    return Deadline.after(timeout_s, abandoned=lambda: not context.is_active())


def answered(context: Context, work: Callable[[], Answer]) -> Answer:
    """The result of ``work``, or the status that its error stands for."""
    trailers: tuple[tuple[str, str], ...] = ()
    try:
        return work()
    except CancelledError:
        code, message = grpc.StatusCode.CANCELLED, "the caller has left"
    except Exception as error:
        code, message = status_of(error)
        trailers = (STORE_TRAILER,) if isinstance(error, StoreError) else ()
    _abort(context, code, message, trailers)


def on_loop(context: Context, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of a coroutine that runs on a loop in another thread, and is cancelled when the call ends first.

    The coroutine must bound its time.

    Raises:
        concurrent.futures.CancelledError: the caller has left, or its deadline has passed.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)

    def leave() -> None:
        future.cancel()

    if not context.add_callback(leave):
        leave()
    try:
        return future.result()
    except asyncio.CancelledError:
        # What asyncio makes of the other one when a coroutine raises it; no Exception, it would pass all handlers.
        raise CancelledError from None


def _abort(context: Context, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, str], ...]) -> NoReturn:
    context.set_trailing_metadata(trailers)
    context.abort(code, message)
    raise AssertionError("abort always raises")
