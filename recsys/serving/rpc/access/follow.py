"""Following the access file: it is read again when it changes; a bad new one leaves the last good one in force."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import ConfigError
from recsys.serving.rpc.access.policy import Policy, read_policy
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")

POLL_S = 1.0

_Seen = tuple[tuple[int, ...] | None, ...]


class PolicyFollower:
    """The access file in force; ``policy``, as last read well, is replaced as a whole.

    Args:
        path: of the file.
        fallback: contents of a policy that was good, in force if the file is bad now; None: there is none.

    Raises:
        ConfigError: it is bad; there is no good one before it.
    """

    def __init__(self, path: Path, *, fallback: Mapping[Path, bytes] | None = None) -> None:
        self._path = path
        self._problem = ""
        self.counts = LabelCounts()
        """Readings of a changed file: ``loaded``, ``refused``."""
        try:
            self.policy, self._seen = _read(path, (path,))
        except ConfigError as error:
            if fallback is None:
                raise
            self.policy = read_policy(path, contents=fallback)
            self._seen = _look(self.policy.files)
            self._refuse(error)

    def look(self) -> None:
        """Read the file again if it, or the file of keys, was changed."""
        seen = _look(self.policy.files)
        # One that was refused is tried again each time: it may name a file of keys that comes later.
        if seen == self._seen and not self._problem:
            return
        changed, self._seen = seen != self._seen, seen
        try:
            policy, self._seen = _read(self._path, self.policy.files)
        except ConfigError as error:
            if changed or str(error) != self._problem:
                self._refuse(error)
            return
        self._problem = ""
        self.policy = policy
        self.counts.add("loaded")
        _log.warning("the access file was read again: %s", describe(policy))

    def _refuse(self, error: ConfigError) -> None:
        self._problem = str(error)
        self.counts.add("refused")
        _log.error("the changed access file is not taken, the one before stays in force: %s", error)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Look for changes in a thread, for the duration of a ``with`` block."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(POLL_S):
                try:
                    self.look()
                except Exception:  # the thread must live: the next file may be a good one
                    _log.exception("the access file could not be looked at")

        thread = threading.Thread(target=work, name="access", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def describe(policy: Policy) -> str:
    """Say in words what a policy lets in."""
    keys = 0 if policy.web_tokens is None else policy.web_tokens.keys
    parts = [f"{len(policy.tokens)} tokens", f"{len(policy.spiffe)} SPIFFE ids", f"JWT of {keys} keys" if keys else ""]
    return ", ".join(part for part in parts if part)


def _read(path: Path, files: tuple[Path, ...]) -> tuple[Policy, _Seen]:
    """The policy, and the state of its files before they were read: a change in between is seen later."""
    while True:
        seen, policy = _look(files), read_policy(path)
        if policy.files == files:
            return policy, seen
        files = policy.files


def _look(files: tuple[Path, ...]) -> _Seen:
    """State of files, through symbolic links, which is another one after every change."""
    seen: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            seen.append(None)
        else:
            seen.append((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return tuple(seen)
