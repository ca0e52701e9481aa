"""The lock of a store of releases, and folders in it that several people write to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from recsys.errors import ConfigError, NoSpaceError, ReleaseError
from recsys.files import make_folder, writing

LOCK = ".lock"
WAIT_S = 30.0
"""Longest wait for the lock. It is held while ``served.json`` changes or a pushed release is put in its place."""
_POLL_S = 0.02
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def store_lock(store: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the store's lock; it ends with the process. A file and no folder: NFS locks only what is open for writing.

    Raises:
        ConfigError: the store cannot be written, or its file system has no locks.
        NoSpaceError: there is no room for the lock's file.
        ReleaseError: another process held it all the while: the message names it.
    """
    make_folder(store)
    path = store / LOCK
    try:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except NoSpaceError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; is the store read-only here?") from error
    try:
        share_mode(path)
        _acquire(descriptor, path, wait_s)
        with contextlib.suppress(OSError):  # a full disk: nothing may be named
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{who()}, process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def hold(path: Path) -> int | None:
    """Take the lock of a file for as long as the descriptor is open; None if another process holds it.

    Raises:
        OSError: as files do.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _HELD:
            return None
        raise
    return descriptor


def make_shared_folder(folder: Path, *, like: Path) -> None:
    """Make a folder with the permissions of another, so that whoever may write to the store may write to it."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(like.stat().st_mode & 0o7777)


def share_mode(path: Path) -> None:
    """Let those who may write to a file's folder write to it; of others' files the owner did."""
    wanted = path.parent.stat().st_mode & 0o666 | 0o600
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o7777 != wanted:
        path.chmod(wanted)


def who() -> str:
    """``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time on this machine's clock, RFC 3339. For people: nothing is ordered by it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _acquire(descriptor: int, path: Path, wait_s: float) -> None:
    ends_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _HELD:
                raise ConfigError(
                    f"{path}: no lock: {error.strerror}; a store of releases needs a file system with flock"
                ) from error
        if time.monotonic() >= ends_s:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise ReleaseError(f"{path}: held by {holder} for more than {wait_s:g} s; try again when it is done")
        time.sleep(_POLL_S)
