"""Download one file whose checksum is known; it appears under its name only when it is whole."""

from __future__ import annotations

import hashlib
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from recsys.errors import DataFileError
from recsys.files import atomic_file, make_folder

_CHUNK_BYTES = 1 << 16


def download(url: str, path: Path, *, md5: str, timeout_s: float = 20.0, limit_s: float = 600.0) -> None:
    """Fetch ``url`` to ``path``, with a progress bar on a terminal.

    Args:
        url: what to fetch.
        path: replaced atomically; its parents are made.
        md5: the published checksum, 32 hex digits.
        timeout_s: longest wait for the server to answer or to send more.
        limit_s: longest the whole download may take.

    Raises:
        OSError: the server cannot be reached, refuses, or breaks off.
        DataFileError: the file is not the published one.
        ConfigError: the folder cannot be written.
    """
    make_folder(path.parent)
    with atomic_file(path) as file:
        try:
            digest = _fetch(url, file.write, label=path.name, timeout_s=timeout_s, limit_s=limit_s)
        except HTTPException as error:  # not an OSError, unlike everything else that can go wrong here
            raise ConnectionError(f"{url}: {error!r}") from error
        if digest != md5:
            raise DataFileError(f"{url}: expected md5 {md5}, got {digest}: the file is not the published one")


def md5_of(path: Path) -> str:
    """MD5 of a file in 32 hex digits; it tells damage, not malice."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(url: str, write: Callable[[bytes], Any], *, label: str, timeout_s: float, limit_s: float) -> str:
    """Stream ``url`` into ``write``; returns the MD5 of what came."""
    end = time.monotonic() + limit_s
    digest = hashlib.md5(usedforsecurity=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with urllib.request.urlopen(url, timeout=timeout_s) as response, bar:
        announced = response.headers.get("Content-Length", "")
        expected = int(announced) if announced.isdigit() else None
        task = bar.add_task(f"Downloading {label}", total=expected)
        received = 0
        while chunk := response.read(_CHUNK_BYTES):
            received += len(chunk)
            write(chunk)
            digest.update(chunk)
            bar.update(task, completed=received)
            if time.monotonic() > end:
                raise TimeoutError(f"{url}: not finished after {limit_s:g} s ({received} bytes)")
    if expected is not None and received < expected:
        raise ConnectionError(f"{url}: broken off after {received} of {expected} bytes")
    return digest.hexdigest()
