"""Redis's error replies: the exception that each is, and the store's error that it stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.redis.link.protocol import Reply

_ERRORS: dict[str, type[Exception]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "DENIED": RedisConnectionError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}

_SERVER_CODES = ("CLUSTERDOWN", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNBLOCKED")
"""Errors that tell of the server, not of the command: at the same address another one may be in charge by now. (LOADING
and refused logins end the connection anyway.)"""

_LATER_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNBLOCKED")
"""Errors that pass without an operator."""

# Redis 6 puts what a command in a program answered behind a text of its own, with redis.pcall the place alone.
_IN_PROGRAM = re.compile(
    r"(?:ERR Error running script \(call to \w+\): @user_script:\d+: )?@user_script: ?\d+: -([A-Z]+ .*)", re.DOTALL
)


def error_of(text: str) -> Exception:
    """The exception an error reply stands for; that of a program which a command's error ended is the command's.

    >>> str(error_of("ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command"))
    'OOM command'
    """
    in_program = _IN_PROGRAM.fullmatch(text)
    text = in_program[1] if in_program else text
    kind = _ERRORS.get(_code(text), ResponseError)
    if text.startswith("ERR max number of clients"):
        kind = RedisConnectionError
    # redis-py's errors about a slot read it from a text without the code.
    return kind(text.partition(" ")[2] if kind in (AskError, MovedError) else text)


def tells_of_server(reply: Reply) -> bool:
    """True of an error by which a server says that it cannot do now what another one may."""
    return isinstance(reply, ResponseError) and _code(str(reply)) in _SERVER_CODES


def value_of(what: bytes | str, reply: Reply) -> Reply:
    """Return the reply, or raise the error it is; ``what`` names the key or the call."""
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, ResponseError):
        raise translate(reply, what.decode() if isinstance(what, bytes) else what) from reply
    return reply


def texts_of(what: bytes, pairs: Sequence[bytes]) -> dict[str, str]:
    """The fields of a hash that holds texts, from the reply to HGETALL; ``what`` names its key.

    Raises:
        StoreFormatError: one is no UTF-8.
    """
    try:
        texts = [text.decode() for text in pairs]
    except UnicodeDecodeError as error:
        raise StoreFormatError(f"{what.decode()}: no text: {error}: some other program writes to it") from None
    return dict(zip(texts[::2], texts[1::2], strict=True))


def translate(error: ResponseError, what: str) -> StoreError:
    """The StoreError an error reply stands for; ``what`` names the key or the call."""
    text = str(error)
    code = _code(text)
    if code == "OOM":
        return StoreError(
            f"{what}: Redis is out of memory: nothing was written. Raise its maxmemory, or let "
            "histories expire (ttl_s); reads go on"
        )
    if code == "MISCONF":
        return StoreError(
            f"{what}: Redis cannot write to its disk and refuses writes: nothing was written. Make room or repair the "
            f"disk (Redis's log says what is wrong); reads go on. It says: {text}"
        )
    if code == "WRONGTYPE":
        return StoreFormatError(f"{what}: the key holds another Redis type: some other program writes to it")
    if code in _LATER_CODES or "Script killed by user" in text:
        return StoreUnavailableError(f"{what}: Redis refuses for now: {text}")
    return StoreError(f"{what}: Redis refused: {text}")


def _code(text: str) -> str:
    return text.partition(" ")[0]
