"""Connection: a client's channel, which is made anew when its certificates change. Calls that run keep the old one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recsys.certificates import CertificateWatch
from recsys.client.address import target_of
from recsys.client.channel import Calls, options
from recsys.client.tls import Tls, channel_credentials, name_options

_log = logging.getLogger("recsys.client")

CHECK_S = 1.0
"""The least time between two looks at the files."""


class _Wire:
    """A channel, its calls, and the number of those that run."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.calls = Calls(channel)
        self.running = 0


class Connection:
    """The way to a server. Safe to use from several threads.

    Args:
        address: as callers give it.
        tls: None: in the clear.
        open_channel: makes a channel of a target, options and credentials, which are None in the clear.
        close_channel: closes one; calls on it are cancelled.

    Raises:
        InvalidInputError: the address is none.
        ConfigError: a file of the certificates is no good.
    """

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        *,
        open_channel: Callable[[str, list[tuple[str, Any]], Any], Any],
        close_channel: Callable[[Any], None],
    ) -> None:
        self._target = target_of(address)
        self.tls = tls
        self._watch = None if tls is None else CertificateWatch(tls.files(), log=_log)
        self._open_channel = open_channel
        self._close_channel = close_channel
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._check_at_s = time.monotonic() + CHECK_S
        self._wire = self._open()
        self._retired: set[_Wire] = set()

    @contextmanager
    def calls(self) -> Iterator[Calls]:
        """The calls of the newest channel, which stays open for the block; some 2 us."""
        if self._watch is not None and time.monotonic() >= self._check_at_s:
            self._renew(self._watch)
        with self._lock:
            wire = self._wire
            wire.running += 1
        try:
            yield wire.calls
        finally:
            with self._lock:
                wire.running -= 1
                spent = wire.running == 0 and wire in self._retired
                self._retired -= {wire} if spent else set()
            if spent:
                self._close_channel(wire.channel)

    def replaced(self, calls: Calls) -> bool:
        """True if the channel of these calls is not the newest one, after a look at the files."""
        if self._watch is not None:
            self._renew(self._watch)
        return self._wire.calls is not calls

    def _renew(self, watch: CertificateWatch) -> None:
        """Make the channel anew if the files have changed."""
        self._check_at_s = time.monotonic() + CHECK_S  # others go on meanwhile
        with self._renewing:  # who finds the files as another has just taken them finds the channel made, too
            if watch.poll() != "taken":
                return
            new = self._open()
            with self._lock:
                old, self._wire = self._wire, new
                spent = old.running == 0
                self._retired |= set() if spent else {old}
        if spent:
            self._close_channel(old.channel)

    def close(self) -> None:
        """Close all channels; running calls are cancelled."""
        with self._lock:
            wires, self._retired = [self._wire, *self._retired], set()
        for wire in wires:
            self._close_channel(wire.channel)

    def _open(self) -> _Wire:
        chosen = [*options(self._target), *([] if self.tls is None else name_options(self.tls))]
        credentials = None if self._watch is None else channel_credentials(self._watch.current)
        return _Wire(self._open_channel(self._target, chosen, credentials))
