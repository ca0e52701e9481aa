"""Sources of events: batches of raw columns, and the position up to which they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array

Column = npt.NDArray[Any] | list[Any]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Limits at which a source whose events come one by one passes a batch on.

    Attributes:
        follow: wait for more at the end, for ever.
        flush_events: when it has so many events,
        flush_s: or so many seconds after the first of them.
    """

    follow: bool = False
    flush_events: int = 10_000
    flush_s: float = 0.1


class Refusal(NamedTuple):
    """An event that is not stored: why, where in its source it was, and the event itself."""

    reason: str
    position: str | int
    event: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """N events as they came.

    Attributes:
        source: where they come from; the name under which ``position`` is remembered.
        columns: field name -> N raw values.
        length: N.
        read_ms: when they were read; the arrival of events that do not say.
        locate: event index -> its position in the source and the event, for a dead letter.
        unsent: attribute name -> where an event did not send it though others did; [N].
        refused: events that could not even be read.
        offsets: the events' numbers in the source, rising, if it numbers them; [N].
        position: what to remember once the batch is stored; empty if the source remembers by itself.
        token: what the source needs to acknowledge the batch.
    """

    source: str
    columns: Mapping[str, Column]
    length: int
    read_ms: int
    locate: Callable[[int], tuple[str | int, Any]]
    unsent: Mapping[str, BoolArray] = field(default_factory=dict)
    refused: Sequence[Refusal] = ()
    offsets: Int64Array | None = None
    position: str = ""
    token: Any = None


class Source(Protocol):
    """One file, topic or stream.

    Calls come one at a time, but for ``applied``, which may come while ``read`` is under way.
    """

    name: str

    async def start(self, positions: Mapping[str, str]) -> None:
        """Begin, or begin again after the store was away, with what is not stored yet.

        Args:
            positions: what the store remembers, by source.

        Raises:
            DataFileError, ConfigError: it cannot be read.
        """
        ...

    async def read(self) -> RawBatch | None:
        """The next events; none if there are none at the moment; None at the end. Returns within about a second."""
        ...

    async def applied(self, batch: RawBatch) -> None:
        """Acknowledge a batch: it is stored, its position too."""
        ...

    def behind(self) -> int | None:
        """Events in the source that were not read yet, where it knows."""
        ...

    async def close(self) -> None:
        """Let go of it; what was not applied stays unacknowledged."""
        ...
