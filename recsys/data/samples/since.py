"""The newest part of what training has: from a time on, or a duration before its newest."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import ConfigError, InvalidInputError

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def since_ms(when: str, *, newest_ms: int) -> int:
    """The first moment that a run trains on, milliseconds since 1970.

    Args:
        when: an ISO 8601 time (UTC unless it says otherwise), or a duration such as ``36h`` that counts back from the
            newest training sample.
        newest_ms: of that sample.

    Raises:
        ConfigError: it is neither.

    >>> since_ms("2001-02-03T00:00:00+01:00", newest_ms=0), since_ms("1d", newest_ms=100_000_000)
    (981154800000, 13600000)
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", when):
        return newest_ms - round(float(match[1]) * UNITS_MS[match[2]])
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        raise ConfigError(
            f"data.since is {when!r}; allowed: a time such as 2001-02-03T04:05:06Z, or a duration such as 36h or 1d "
            "before the newest training sample"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def newest_since(time_ms: Int64Array, when: str, *, what: str) -> BoolArray:
    """Find the moments that are not before ``when``.

    Args:
        time_ms: milliseconds since 1970, at least one.
        when: as of :func:`since_ms`.
        what: the moments are of, in the plural.

    Raises:
        ConfigError: ``when`` is no time.
        InvalidInputError: none is as new.
    """
    newest_ms = int(time_ms.max())
    first_ms = since_ms(when, newest_ms=newest_ms)
    kept: BoolArray = time_ms >= first_ms
    if not kept.any():
        raise InvalidInputError(
            f"data.since {when}: none of the {len(time_ms):,} {what} is as new as {_iso(first_ms)}, the newest is of "
            f"{_iso(newest_ms)}: there is nothing to train on"
        )
    return kept


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
