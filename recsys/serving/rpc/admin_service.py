"""Admin service: the status of releases, and a reload, on a port of this machine alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_reflection.v1alpha import reflection

from recsys.errors import ConfigError, OverloadedError
from recsys.proto import admin_pb2 as pb
from recsys.proto import admin_pb2_grpc
from recsys.releases.status import ServerStatus
from recsys.serving.rpc.calls import Context, abort_on_error, deadline_of
from recsys.serving.rpc.interceptors import Interceptor

_RELOAD_S = 600.0
"""Time that a call may take when its caller set no deadline."""

_RELOADS = 2
"""Reloads that may be waited for at a time: the other threads say what is served meanwhile."""

_STOP_S = 2.0

Ask = Callable[[bool, float], ServerStatus]
"""Gives the server's status, after a reload if the first argument says so; in so many seconds."""


class AdminService:
    """``recsys.v1.Admin``.

    Args:
        ask: asks the supervisor.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._reloads = threading.BoundedSemaphore(_RELOADS)

    def Reload(self, message: pb.ReloadRequest, context: Context) -> pb.ServerStatus:
        """Read ``served.json`` now, and switch to what it says."""

        def reload() -> pb.ServerStatus:
            if not self._reloads.acquire(blocking=False):
                raise OverloadedError(f"{_RELOADS} reloads are waited for already, the limit; GetStatus says how far")
            try:
                return self._answer(context, reload=True)
            finally:
                self._reloads.release()

        return abort_on_error(context, reload)

    def GetStatus(self, message: pb.GetStatusRequest, context: Context) -> pb.ServerStatus:
        """Say what is served."""
        return abort_on_error(context, lambda: self._answer(context, reload=False))

    def _answer(self, context: Context, *, reload: bool) -> pb.ServerStatus:
        deadline = deadline_of(context, default_s=_RELOAD_S)
        return status_message(self._ask(reload, deadline.remaining_s()))


def status_message(status: ServerStatus) -> pb.ServerStatus:
    """Convert a server's status to the message."""
    models = {
        name: pb.ModelStatus(live=model.live, split=model.split, shadow=model.shadow)
        for name, model in status.models.items()
    }
    return pb.ServerStatus(
        phase=status.phase,
        progress=status.progress,
        revision=status.revision,
        models=models,
        loaded=status.loaded,
        refused=status.refused,
        warnings=status.warnings,
    )


@contextlib.contextmanager
def admin_server(
    port: int,
    ask: Ask,
    threads: ThreadPoolExecutor,
    *,
    most: int | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> Iterator[None]:
    """Serve the admin service on a port of 127.0.0.1 for the duration of a ``with`` block; all workers share it.

    Args:
        port: its.
        ask: asks the supervisor.
        threads: handle its calls.
        most: calls at a time; None: the threads see to it.
        interceptors: say who may call.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    options = [("grpc.so_reuseport", 1)]
    server = grpc.server(threads, options=options, maximum_concurrent_rpcs=most, interceptors=list(interceptors))
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(ask), server)  # type: ignore[no-untyped-call]
    names = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    try:
        server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError:
        raise ConfigError(f"admin_port {port}: 127.0.0.1:{port} cannot be listened on; choose another port") from None
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait(_STOP_S)
