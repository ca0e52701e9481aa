"""Status codes: the one table from errors to gRPC's, and the log of those that are not in it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

import grpc

from recsys.errors import (
    AccessError,
    AuthenticationError,
    InvalidInputError,
    ModelError,
    NotExportedError,
    NotFoundError,
    OverloadedError,
    ReleaseError,
    StoreError,
    StoreUnavailableError,
)
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.deadline import CallerLeftError

_log = logging.getLogger("recsys.serving")

STATUS_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    AccessError: grpc.StatusCode.PERMISSION_DENIED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
    StoreError: grpc.StatusCode.FAILED_PRECONDITION,
    ReleaseError: grpc.StatusCode.FAILED_PRECONDITION,
    NotExportedError: grpc.StatusCode.FAILED_PRECONDITION,
    CallerLeftError: grpc.StatusCode.CANCELLED,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ModelError: grpc.StatusCode.INTERNAL,
}
"""The first that fits counts. FAILED_PRECONDITION: retrying is pointless until an operator acts.
Anything else is a defect of ours: INTERNAL, as is what a model gives that is no number, which is told in words."""

_model_errors = RateLimitedLog(_log)


NOT_THE_CALLERS = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)
"""Statuses of calls that failed by no fault of the caller: they count as failures of the release that was to answer."""


def truncate(text: str) -> str:
    """Cut a message to what a status may carry: a client drops an answer whose trailers are longer than 8 KiB.

    A message may quote what a caller sent. gRPC writes a character outside ASCII as up to 12.

    >>> truncate("é" * 501)[-9:]
    'ééé [cut]'
    """
    longest = 4_000 if text.isascii() else 500
    return text if len(text) <= longest else f"{text[:longest]} [cut]"


class IncidentLog:
    """Log unexpected errors under a short id: of one type from one place, one in 10 s.

    Those in between share the id of the one that is logged, and are counted.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = RateLimitedLog(_log, clock=clock)
        self._ids: dict[tuple[type[Exception], str, int], str] = {}
        self._lock = threading.Lock()

    def log(self, error: Exception) -> str:
        """Log it, or count it; returns the id under which the log shows it or its like."""
        kind = (type(error), *_raised_at(error))
        with self._lock:
            suppressed, before = self._limit.due(kind), self._ids.get(kind, "")
            incident = before if suppressed is None else secrets.token_hex(4)
            self._ids[kind] = incident
        if suppressed is None:
            return incident
        since = f" ({suppressed} more like it since incident {before}, not logged)" if suppressed else ""
        _log.error("incident %s%s", incident, since, exc_info=error)
        return incident


_incident_log = IncidentLog()


def _raised_at(error: Exception) -> tuple[str, int]:
    """File and line that raised it."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return ("", 0) if step is None else (step.tb_frame.f_code.co_filename, step.tb_lineno)


def code_of(error: Exception) -> grpc.StatusCode:
    """Map an error to the status code that a caller gets."""
    return next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Map an error to the status code and message that a caller gets.

    An error that is not in the table is logged with its traceback under a short id (see
    :class:`IncidentLog`); the caller gets the id and nothing of the inside.
    """
    for kind, code in STATUS_CODES.items():
        if isinstance(error, kind):
            if kind is ModelError:
                _model_errors.warning(None, "a call failed: %s", error)
            return code, truncate(str(error))
    incident = _incident_log.log(error)
    return grpc.StatusCode.INTERNAL, f"internal error; the server's log has details under incident {incident}"
