"""Ready file: one JSON line with the address where the server answers, for as long as it does."""

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
    """Keep the file absent except while this process serves: before and after, its address would be a wrong one.

    Raises:
        ConfigError: what is there cannot be removed, or nothing can be written there.
    """
    try:
        if path is not None:
            path.unlink(missing_ok=True)
            _temporary(path).touch()  # now, not when the models are loaded
            _temporary(path).unlink()
    except OSError as error:
        raise ConfigError(f"ready file {str(path)!r} cannot be replaced: {error.strerror}; choose another") from error
    try:
        yield
    finally:
        remove_ready_file(path)


def write_ready_file(path: Path | None, facts: Mapping[str, Any]) -> None:
    """Write the facts, and this process's ``pid``.

    Raises:
        ConfigError: they cannot be written.
    """
    if path is None:
        return
    temporary = _temporary(path)
    try:
        # Renamed into place: whoever waits for the file never reads half of it.
        temporary.write_text(json.dumps({**facts, "pid": os.getpid()}) + "\n")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"ready file {str(path)!r} cannot be written: {error.strerror}; choose another") from error


def remove_ready_file(path: Path | None) -> None:
    """Remove the file, unless a successor has written its own by now."""
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["pid"] == os.getpid():
                path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
