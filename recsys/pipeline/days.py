"""Days in their zone, moments and durations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from recsys.data.samples.since import UNITS_MS
from recsys.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Day:
    """A span of events that ends: those before its end are known, later ones are not there yet.

    Attributes:
        name: of its file: ``2026-11-29``, or for another end ``2026-11-29T12-00-00Z``.
        until_ms: its end, milliseconds since 1970; events from then on are left.
    """

    name: str
    until_ms: int


def day_of(day: str | None, until: str | None, *, zone: str, now_ms: int) -> Day:
    """The day that was asked for; by default yesterday.

    Args:
        day: a date in the zone.
        until: a moment instead; in the zone, unless it says otherwise.
        zone: name of the time zone.
        now_ms: this machine's clock.

    Raises:
        ConfigError: both are given, one is malformed, or its end is not here yet.

    >>> day_of("2026-11-29", None, zone="UTC", now_ms=1_800_000_000_000)
    Day(name='2026-11-29', until_ms=1795996800000)
    >>> day_of(None, None, zone="Europe/Berlin", now_ms=1_795_990_000_000).name
    '2026-11-28'
    """
    if day is not None and until is not None:
        raise ConfigError("--day and --until: allowed: one of them")
    where = ZoneInfo(zone)
    if until is not None:
        try:
            moment = datetime.fromisoformat(until)
        except ValueError:
            raise ConfigError(f"--until is {until!r}; allowed: a moment such as 2026-11-29T12:00") from None
        until_ms = milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=where))
        found = Day(name=iso(until_ms).replace(":", "-"), until_ms=until_ms)
    else:
        try:
            wanted = date.fromisoformat(day) if day else datetime.fromtimestamp(now_ms / 1000, tz=where).date()
        except ValueError:
            raise ConfigError(f"--day is {day!r}; allowed: a date such as 2026-11-29") from None
        wanted = wanted if day else wanted - timedelta(days=1)
        ends = datetime.combine(wanted + timedelta(days=1), time(), tzinfo=where)
        found = Day(name=wanted.isoformat(), until_ms=milliseconds(ends))
    if found.until_ms > now_ms:
        raise ConfigError(
            f"{found.name} ends at {iso(found.until_ms)}, and it is {iso(now_ms)}: its events are not all here yet"
        )
    return found


def duration_ms(where: str, text: str) -> int:
    """Milliseconds of a duration such as ``6h``.

    Raises:
        ConfigError: it is none; names ``where``.

    >>> duration_ms("data.holdout", "6h"), duration_ms("data.holdout", "1.5d")
    (21600000, 129600000)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text.strip())
    if match is None:
        raise ConfigError(f"{where} is {text!r}; allowed: a number and s, m, h, d or w, such as 6h")
    return round(float(match[1]) * UNITS_MS[match[2]])


def iso(time_ms: int) -> str:
    """RFC 3339 in UTC.

    >>> iso(1795996800000), iso(1795996800001)
    ('2026-11-30T00:00:00Z', '2026-11-30T00:00:00.001Z')
    """
    moment = datetime.fromtimestamp(time_ms // 1000, tz=UTC) + timedelta(milliseconds=time_ms % 1000)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of a moment with a zone."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
