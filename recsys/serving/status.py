"""The one table from errors to gRPC status codes."""

from __future__ import annotations

import logging
import secrets

import grpc

from recsys.errors import (
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    StoreError,
    StoreUnavailableError,
)

_log = logging.getLogger("recsys.serving")

STATUS_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
    StoreError: grpc.StatusCode.FAILED_PRECONDITION,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The first that fits counts. FAILED_PRECONDITION: retrying is pointless until an operator acts.
Anything else is a defect of ours: INTERNAL."""


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status code and message a caller gets for ``error``.

    An error that is not in the table is logged with its traceback under a short id; the caller gets
    the id and nothing of the inside.
    """
    for kind, code in STATUS_CODES.items():
        if isinstance(error, kind):
            return code, str(error)
    incident = secrets.token_hex(4)
    _log.error("incident %s", incident, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error; the server's log has details under incident {incident}"
