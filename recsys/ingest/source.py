"""Sources of events: batches of raw columns, and the position up to which they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.rows.contract import RowContract


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

    error: InvalidInputError
    row: str | int
    event: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """N events as they came.

    Attributes:
        source: where they come from; the name under which ``position`` is remembered.
        contract: what an event is.
        columns: field name -> N raw values.
        length: N.
        read_ms: when they were read; the arrival of events that do not say.
        locate: event index -> its row or number in the source and the event, for a dead letter.
        refused: events that could not even be read.
        offsets: the events' numbers in the source, rising, if it numbers them; [N].
        position: what to remember once the batch is stored; empty if the source remembers by itself.
        token: what the source needs to acknowledge the batch.
    """

    source: str
    contract: RowContract
    columns: Mapping[str, Any]
    length: int
    read_ms: int
    locate: Callable[[int], tuple[str | int, Any]]
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

    def left(self) -> str | None:
        """Say what was left at the end, if anything was: a last line that has no end yet."""
        ...

    async def close(self) -> None:
        """Let go of it; what was not applied stays unacknowledged."""
        ...
