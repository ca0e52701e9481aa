"""The server's counts, for the duration of its life, and the page that shows them, if there is to be one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recsys.serving.console import say
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import make_telemetry_file


@contextlib.contextmanager
def counted(settings: Settings, *, workers: int) -> Iterator[Path | None]:
    """The file that the workers count in, for the duration of a ``with`` block; None if nobody is to see it."""
    if settings.metrics_port is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="recsys-counts-") as folder:
        with _kept(Path(folder)):
            yield make_telemetry_file(Path(folder) / "counts", workers=workers)


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """A lock that keeps systemd-tmpfiles from removing a folder after ten days (tmpfiles.d(5), AGE FIELD).

    A worker that is started again opens what is in it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def metrics(settings: Settings, counts: Path | None, model: str, version: str) -> Iterator[dict[str, str]]:
    """Show what is counted, for the duration of a ``with`` block; yields the page's address for the ready file.

    Raises:
        ConfigError: the page's port is taken.
    """
    if counts is None or settings.metrics_port is None:
        yield {}
        return
    # The page's library is imported by those who want one.
    from recsys.serving.telemetry.prometheus import metrics_page

    facts = {"model": model, "version": version}
    with metrics_page(counts, host=settings.host, port=settings.metrics_port, model=facts) as port:
        address = f"http://{settings.host}:{port}/metrics"
        say(f"metrics on {address}")
        yield {"metrics": address}
