"""CallToken: the token that a client sends with each call, from a text or a file."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.client.address import is_local, target_of
from recsys.errors import InvalidInputError

_log = logging.getLogger("recsys.client")

CHECK_S = 1.0
"""The least time between two looks at the file."""

_MOST_BYTES = 8_000
_FORM = re.compile(r"[!-~]+")
_ALLOWED = f"allowed: printable ASCII without blanks, up to {_MOST_BYTES:,} characters"

Metadata = tuple[tuple[str, str], ...]


class CallToken:
    """A token, as the metadata of a call. Its repr shows nothing of it. Safe to use from several threads.

    Args:
        token: the token; or the file that holds it, read again when it changes; None: no token.
        address: of the server.
        secured: the connection speaks TLS.
        in_clear: send it without TLS to another machine, too, where everybody on the way can read it.

    Raises:
        InvalidInputError: it is no token, its file cannot be read, or it would be sent in clear.
    """

    def __init__(self, token: str | Path | None, *, address: str, secured: bool, in_clear: bool = False) -> None:
        if token is not None and not isinstance(token, str | Path):
            raise InvalidInputError(f"token is a {type(token).__name__}; allowed: the token, or the Path of its file")
        target = target_of(address)
        if token is not None and not (secured or in_clear or is_local(target)):
            raise InvalidInputError(
                f"a token would be sent to {target} in clear, where everybody on the way can read it; allowed: with "
                "TLS, to this machine, or with token_in_clear=True"
            )
        self._file = token if isinstance(token, Path) else None
        self._lock = threading.Lock()
        self._check_at_s = time.monotonic() + CHECK_S
        self._seen = None if self._file is None else _state(self._file)
        text = token if isinstance(token, str) else None
        self._metadata = _metadata(text if self._file is None else _read(self._file))

    def metadata(self) -> Metadata:
        """Metadata of a call that is made now; less than a microsecond."""
        if self._file is not None and time.monotonic() >= self._check_at_s:
            self._renew(self._file)
        return self._metadata

    def _renew(self, file: Path) -> None:
        with self._lock:
            self._check_at_s = time.monotonic() + CHECK_S
            before, self._seen = self._seen, _state(file)
            if self._seen == before:
                return
            try:
                self._metadata = _metadata(_read(file))
            except InvalidInputError as error:  # it may be half written: then it changes once more
                _log.warning("the token of before is sent on: %s", error)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 2)
    except OSError as error:
        raise InvalidInputError(f"token: {file}: {error.strerror}") from None
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise InvalidInputError(f"token: {file}: no token; {_ALLOWED}") from None


def _metadata(token: str | None) -> Metadata:
    if token is None:
        return ()
    if not _FORM.fullmatch(token) or len(token) > _MOST_BYTES:  # of what it is nothing may be shown
        raise InvalidInputError(f"token: no token; {_ALLOWED}")
    return (("authorization", f"Bearer {token}"),)


TOKEN, TOKEN_FILE, IN_CLEAR = "RECSYS_TOKEN", "RECSYS_TOKEN_FILE", "RECSYS_TOKEN_IN_CLEAR"
"""Variables of commands that call a server; no option takes a token, for ``ps`` shows options to everybody."""


def token_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a client that send the token of an environment.

    Raises:
        InvalidInputError: both the token and a file of it are set.

    >>> token_options({"RECSYS_TOKEN_FILE": "web.token"})
    {'token': PosixPath('web.token'), 'token_in_clear': False}
    """
    text, file = environment.get(TOKEN, ""), environment.get(TOKEN_FILE, "")
    if text and file:
        raise InvalidInputError(f"{TOKEN} and {TOKEN_FILE} are set; allowed: one of them")
    in_clear = environment.get(IN_CLEAR, "") == "1"
    return {"token": Path(file) if file else text or None, "token_in_clear": in_clear}
