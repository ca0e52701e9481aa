"""Redis's error replies as the store's errors."""

from __future__ import annotations

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.redis.link.protocol import Reply

_LATER = (ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)


def value_of(what: bytes | str, reply: Reply) -> Reply:
    """Return the reply, or raise the error it is; ``what`` names the key or the call."""
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, ResponseError):
        raise translate(reply, what.decode() if isinstance(what, bytes) else what) from reply
    return reply


def translate(error: ResponseError, what: str) -> StoreError:
    """The StoreError an error reply stands for; ``what`` names the key or the call."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreError(
            f"{what}: Redis is out of memory: nothing was written. Raise its maxmemory, or let "
            "histories expire (ttl_s); reads go on"
        )
    if text.startswith("WRONGTYPE"):
        return StoreFormatError(f"{what}: the key holds another Redis type: some other program writes to it")
    if isinstance(error, _LATER) or text.startswith(("BUSY", "NOREPLICAS")):
        return StoreUnavailableError(f"{what}: Redis refuses for now: {text}")
    return StoreError(f"{what}: Redis refused: {text}")
