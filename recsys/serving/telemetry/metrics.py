"""Metrics of a server: the file that its workers count in, and the endpoint that shows it, if there is to be one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from recsys.certificates import CertificateWatch
from recsys.files import kept_folder
from recsys.serving.console import say
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import is_loopback
from recsys.serving.telemetry.in_service import InService
from recsys.serving.telemetry.layout import create_counter_file


@contextlib.contextmanager
def counter_file(settings: Settings, *, workers: int, methods: Iterable[str]) -> Iterator[Path | None]:
    """Create the file that the workers count in, for the duration of a ``with`` block; None if nobody reads it.

    It is read by the metrics page, and by a server of a store of releases, which watches them.

    Args:
        settings: the server's.
        workers: number of processes.
        methods: names of the methods whose calls are counted.
    """
    if settings.metrics_port is None and settings.releases is None:
        yield None
        return
    with kept_folder("recsys-counts-") as folder:
        yield create_counter_file(folder / "counts", workers=workers, methods=methods)


@contextlib.contextmanager
def metrics_endpoint(
    settings: Settings, counts: Path | None, in_service: InService, certificates: CertificateWatch | None = None
) -> Iterator[dict[str, str]]:
    """Serve the counts over HTTP or HTTPS during a ``with`` block; yields the address for the ready file.

    Args:
        settings: the server's.
        counts: the file that the workers count in; None for none.
        in_service: the releases; what it is given later shows, too.
        certificates: the server's: the page is behind them, unless it is for this machine alone; None: it has none.

    Raises:
        ConfigError: the port is taken.
    """
    if counts is None or settings.metrics_port is None:
        yield {}
        return
    # Only servers with this endpoint import its library.
    from recsys.serving.telemetry.prometheus import metrics_server

    host = settings.metrics_host or settings.host
    secured = certificates is not None and not is_loopback(host)
    with metrics_server(
        counts,
        host=host,
        port=settings.metrics_port,
        in_service=in_service,
        certificates=certificates,
        secured=secured,
    ) as port:
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        address = f"{'https' if secured else 'http'}://{shown}:{port}/metrics"
        say(f"metrics on {address}")
        yield {"metrics": address}
