"""What the client returns and raises. Import them from :mod:`recsys.client`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import (
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    StoreError,
    StoreUnavailableError,
)


class RpcError(RecsysError):
    """A call failed. ``code`` is the gRPC status code's name, ``message`` what the server said."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class InvalidArgument(RpcError, InvalidInputError):
    """The request is not allowed; the message says which field, what arrived, what is allowed."""


class NotFound(RpcError, NotFoundError):
    """The server does not serve the model that was asked for."""


class Overloaded(RpcError, OverloadedError):
    """The server has no room for another request; retry with backoff."""


class Unavailable(RpcError):
    """The server, or the store behind it (:class:`StoreUnavailable`), cannot be reached, or is shutting down."""


class StoreUnavailable(Unavailable, StoreUnavailableError):
    """The server answers, but the feature store behind it is away or too slow; nothing is lost by a repetition."""


class StoreRefused(RpcError, StoreError):
    """The store is full, or holds foreign bytes or another layout: an operator must act before a repetition helps."""


class DeadlineExceeded(RpcError, TimeoutError):
    """No answer within the timeout."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scored candidates, in the order they were sent, or best first with ``top_k``.

    Attributes:
        items: the candidates' ids as they were sent, in the order of ``scores``.
        scores: the model's probabilities in [0, 1]; float32, shape [C], or [min(top_k, distinct C)].
        positions: where each item stood in the request; int64, same shape.
        model, model_version: which model answered.
        history_events: how many past events it looked at.
        degraded: what the store could not give: any of ``user``, ``items``; empty for a full answer.
    """

    items: list[Any]
    scores: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    model: str
    model_version: str
    history_events: int
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append did: events ``added`` by it, and events ``stored`` now."""

    added: int
    stored: int


@dataclass(frozen=True, slots=True)
class UserHistory:
    """A user's newest events, oldest first; all columns int64, shape [L].

    Attributes:
        items: item ids (62-bit keys where ids are strings).
        timestamps_ms, arrivals_ms: milliseconds since 1970.
        attributes: by name; -1 where missing.
        appended, trimmed: events ever appended, and dropped since because the history was full.
    """

    items: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]
    arrivals_ms: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[np.int64]]
    appended: int
    trimmed: int
