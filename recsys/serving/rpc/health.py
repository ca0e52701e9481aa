"""Health: ``grpc.health.v1.Health``, the status of a server and of what it serves, by name.

A check reads a table and waits for nobody. In gRPC's own servicer a caller that watches and does not read holds up
whoever sets a status, and with it every check.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2

from recsys.serving.rpc.calls import Context

_Status = health_pb2.HealthCheckResponse
_POLL_S = 60.0


class Health:
    """The service. Safe to use from several threads."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": _Status.SERVING}
        self._changed = threading.Condition()
        self._ended = False

    def set(self, name: str, status: int) -> None:
        """Set the status of a name; empty: of the whole server."""
        with self._changed:
            if not self._ended:
                self._statuses[name] = status
                self._changed.notify_all()

    def enter_graceful_shutdown(self) -> None:
        """Set all to NOT_SERVING, for good."""
        with self._changed:
            self._statuses = dict.fromkeys(self._statuses, _Status.NOT_SERVING)
            self._ended = True
            self._changed.notify_all()

    def Check(self, message: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Say the status of a name."""
        status = self._statuses.get(message.service)
        if status is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return _Status()
        return _Status(status=status)

    def List(self, message: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        """Say the status of every name."""
        statuses = {name: _Status(status=status) for name, status in self._statuses.copy().items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    def Watch(
        self, message: health_pb2.HealthCheckRequest, context: Context
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Say the status of a name, and again whenever it changes; ends with the server's drain."""

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        told: int | None = None
        if not context.add_callback(wake):
            return
        while context.is_active():
            status = self._statuses.get(message.service, _Status.SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield _Status(status=status)
                continue
            if self._ended:
                return  # one who watches must not keep the server from ending
            with self._changed:
                if self._statuses.get(message.service, _Status.SERVICE_UNKNOWN) == told and context.is_active():
                    self._changed.wait(_POLL_S)
