"""Times: milliseconds since 1970, distinguished from other units by their size; shared by all calls."""

from __future__ import annotations

from recsys.errors import InvalidInputError
from recsys.features.history.records import MAX_TIMESTAMP_MS

MIN_TIMESTAMP_MS = 100_000_000_000
"""1973-03-03; every time in seconds until the year 5138 is below it, so it tells the units apart."""


def moment_ms(field: str, time_ms: int) -> int | None:
    """Check a point in time; None for 0.

    Raises:
        InvalidInputError: it is not in milliseconds, by its size.
    """
    if not time_ms:
        return None
    if not MIN_TIMESTAMP_MS <= time_ms <= MAX_TIMESTAMP_MS:
        raise InvalidInputError(f"{field} is {time_ms}: {time_problem(time_ms, MAX_TIMESTAMP_MS)}")
    return time_ms


def time_problem(time_ms: int, latest_ms: int) -> str:
    """Explain why a time is not allowed, and what is."""
    if time_ms < 0:
        return "negative; allowed: milliseconds since 1970-01-01T00:00:00Z"
    if time_ms < MIN_TIMESTAMP_MS:
        return f"before 1973, so probably seconds; allowed: milliseconds since 1970, from {MIN_TIMESTAMP_MS}"
    unit = ", so probably micro- or nanoseconds" if time_ms > 100 * latest_ms else ""
    return f"{(time_ms - latest_ms) / 1000:.0f} s later than allowed{unit}; allowed: milliseconds up to {latest_ms}"
