"""Calls: the caller's deadline, errors as statuses, coroutines of a handler. Handlers run in threads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, NoReturn, TypeVar

import grpc

from recsys.errors import NotExportedError, OverloadedError, StoreError
from recsys.proto.trailers import EXPORT_TRAILER, RETRY_TRAILER, STORE_TRAILER
from recsys.serving.deadline import Deadline
from recsys.serving.rpc.statuses import status_of

Context = grpc.ServicerContext
Response = TypeVar("Response")

NO_DEADLINE_S = 1e9
"""gRPC reports no deadline as one that is ages away."""


def deadline_of(context: Context, *, default_s: float) -> Deadline:
    """Make the call's deadline, which also knows when the caller has left."""
    remaining_s = context.time_remaining()
    timeout_s = default_s if remaining_s is None or remaining_s > NO_DEADLINE_S else remaining_s
    return Deadline.after(timeout_s, abandoned=lambda: not context.is_active(), when_left=context.add_callback)


def abort_on_error(context: Context, work: Callable[[], Response]) -> Response:
    """Return the result of ``work``, or abort the call with the status of its error."""
    trailers: tuple[tuple[str, str], ...] = ()
    try:
        return work()
    except Exception as error:
        code, message = status_of(error)
        trailers = trailers_of(error)
    _abort(context, code, message, trailers)


def trailers_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of a call that ends with this error.

    >>> trailers_of(OverloadedError("full", retry_after_s=0.0123))
    (('grpc-retry-pushback-ms', '13'),)
    """
    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
        return ((RETRY_TRAILER, str(math.ceil(1e3 * error.retry_after_s))),)
    if isinstance(error, NotExportedError):
        return (EXPORT_TRAILER,)
    return (STORE_TRAILER,) if isinstance(error, StoreError) else ()


def run_on_loop(
    context: Context, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Response], deadline: Deadline
) -> Response:
    """Run a coroutine on a loop in another thread; it is cancelled when the call ends first.

    The coroutine must bound its time.

    Raises:
        TimeoutError: its deadline has passed.
        CallerLeftError: the caller has left before it.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)

    def cancel() -> None:
        future.cancel()

    if not context.add_callback(cancel):
        cancel()
    try:
        return future.result()
    except (CancelledError, asyncio.CancelledError):
        # The latter is what asyncio makes of the other one when a coroutine raises it; no Exception, it would pass all
        # handlers.
        raise deadline.caller_left() from None


def _abort(context: Context, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, str], ...]) -> NoReturn:
    context.set_trailing_metadata(trailers)
    context.abort(code, message)
    raise AssertionError("abort always raises")
