"""Early ends: calls that end before a handler has them are counted, and logged at a limited rate."""

from __future__ import annotations

import logging
from contextvars import ContextVar

import grpc

from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.counters import Telemetry

_log = logging.getLogger("recsys.serving")

CALLED_METHOD: ContextVar[str] = ContextVar("CALLED_METHOD")
"""The path of a call's method, in the call's context (``interceptors.Arrivals``)."""

_LONGEST_PATH = 200


class EarlyEnds:
    """The record of calls that no handler had.

    Args:
        telemetry: counts them; None: nothing is counted.
    """

    def __init__(self, telemetry: Telemetry | None) -> None:
        self.arrived = 0
        """Calls that gRPC has handed over so far, whatever became of them (``interceptors.Arrivals``)."""
        self._telemetry = telemetry
        self._limit = RateLimitedLog(_log)

    def record(self, reason: str, path: str, code: grpc.StatusCode | None, message: str) -> None:
        """Record a call that has ended.

        Args:
            reason: a value of the label ``reason`` of ``recsys_early_ends_total``.
            path: of its method, as the caller wrote it.
            code: its status, to be counted with those of its method; None: it is counted elsewhere, or not known.
            message: of the status.
        """
        method = METHODS.get(path)
        if reason == "no_time":
            self.arrived += 1  # the interceptor that counts the others is behind the door
        if self._telemetry is not None:
            self._telemetry.count("early_ends", reason)
            if method is not None and code is not None:
                self._telemetry.count("requests", method, code.name)
                if reason == "no_time":
                    self._telemetry.count("refused", method, "time_left")
        shown = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
        self._limit.warning(reason, "a call of %r ended before a handler had it (%s): %s", shown, reason, message)
