"""Opening a tracer: what the settings ask for, if it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.errors import ConfigError
from recsys.serving.settings import Settings
from recsys.serving.telemetry.tracing.exporter import Sender, SpanQueue
from recsys.serving.telemetry.tracing.tracer import Tracer


@contextmanager
def open_tracer(
    settings: Settings, *, store: str = "", worker: int = 0, sender: Sender | None = None
) -> Iterator[Tracer | None]:
    """Open the tracer that the settings ask for, for the duration of a ``with`` block; None for none.

    Args:
        settings: the server's.
        store: address of the store, without secrets.
        worker: number of the process among the server's workers.
        sender: sends the spans; None: an OTLP exporter.

    Raises:
        ConfigError: as :func:`check_tracing`.
    """
    if settings.trace_share is None:
        yield None
        return
    check_tracing(settings)
    from recsys.serving.telemetry.tracing.spans import SpanMaker, otlp_sender

    queue = SpanQueue(otlp_sender(settings) if sender is None else sender)
    try:
        yield Tracer(settings.trace_share, maker=SpanMaker(settings, store=store, worker=worker), queue=queue)
    finally:
        queue.close()


def check_tracing(settings: Settings) -> None:
    """Check that what the settings ask for is installed.

    Raises:
        ConfigError: traces are wanted, and the extra is not installed.
    """
    if settings.trace_share is not None and not _installed():
        raise ConfigError(
            f"trace_share is {settings.trace_share}, and OpenTelemetry is not installed; `pip install 'recsys[otel]'`, "
            "or leave trace_share unset"
        )


def _installed() -> bool:
    names = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
    try:
        return all(importlib.util.find_spec(name) is not None for name in names)
    except ImportError:  # a parent that is not there
        return False
