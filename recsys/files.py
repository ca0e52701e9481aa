"""Files and folders that appear under their name only when they are whole.

A writer works on ``.NAME.tmp-PID-RANDOM`` next to the target, syncs it, and renames it. What a killed
writer left is removed by the next writer of the same name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from recsys.errors import ConfigError


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: a kill at any moment leaves the old content or the new.

    Raises:
        ConfigError: the folder cannot be written.
    """
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces ``path`` when the block ends well; otherwise nothing changes.

    Raises:
        ConfigError: the folder cannot be written.
    """
    temporary = temporary_path(path)
    try:
        stream = temporary.open("xb")
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, if they are absent.

    Raises:
        ConfigError: it cannot be made, or is there and cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: no permission; choose another folder")


def temporary_path(path: Path) -> Path:
    """A new name next to ``path`` for what will become it; removes what killed writers of ``path`` left."""
    remove_leftovers(path)
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers of ``path`` left; temporaries of a process that still runs are kept."""
    prefix = f".{path.name}.tmp-"
    try:
        found = [entry for entry in path.parent.iterdir() if entry.name.startswith(prefix)]
    except OSError:  # the writer will say what is wrong with the folder
        return
    for entry in found:
        pid = entry.name.removeprefix(prefix).split("-")[0]
        if not pid.isdigit() or _runs(int(pid)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; BlockingIOError if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Have a file's content, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _not_writable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror or error}; choose another folder")
