"""The ready file: one JSON line that says where the server answers, for as long as it does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError


@contextlib.contextmanager
def ready_file(path: Path | None) -> Iterator[None]:
    """The file is there only while this process serves: before and after, an address in it would be a wrong one.

    Raises:
        ConfigError: what is there cannot be removed, or nothing can be written there.
    """
    try:
        if path is not None:
            path.unlink(missing_ok=True)
            _part(path).touch()  # now, not when the models are loaded
            _part(path).unlink()
    except OSError as error:
        raise ConfigError(f"ready file {str(path)!r} cannot be replaced: {error.strerror}; choose another") from error
    try:
        yield
    finally:
        forget_address(path)


def write_address(path: Path | None, facts: Mapping[str, Any]) -> None:
    """Write the facts, and this process's ``pid``.

    Raises:
        ConfigError: they cannot be written.
    """
    if path is None:
        return
    part = _part(path)
    try:
        # Renamed into place: whoever waits for the file never reads half of it.
        part.write_text(json.dumps({**facts, "pid": os.getpid()}) + "\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ConfigError(f"ready file {str(path)!r} cannot be written: {error.strerror}; choose another") from error


def forget_address(path: Path | None) -> None:
    """Remove the file, unless a successor has written its own by now."""
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["pid"] == os.getpid():
                path.unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
