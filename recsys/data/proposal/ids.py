"""Columns of the user, the item and the time: by their names, held against their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from recsys.data.proposal.facts import Facts
from recsys.data.proposal.words import ITEM, TIME, USER, has, names_id, parts
from recsys.errors import ConfigError, nearest
from recsys.features.feature_set import is_name
from recsys.features.values import RefusedValueError, TimeUnit, time_ms

Form = Literal["int", "string", "number", "time", ""]

UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
_PLAUSIBLE = 0.95
_CHECKED = 2_000
_SOON_MS = 253_402_300_799_999
_OLDEST_UNNAMED_MS = 788_918_400_000  # 1995: an id that happens to be a number of seconds is rarely later


@dataclass(frozen=True, kw_only=True)
class Role:
    """A column and what it is.

    Attributes:
        column: its name.
        role: ``user id``, ``item id``, ``time``, ``arrival``, ``label``, ``user``, ``item``, ``context``, ``history``,
            or ``ignored``. An item's attribute can be both: ``item, history``.
        form: ``int`` or ``string`` of ids, ``number``, ``time``.
        reason: for the guess, in words.
        near: another reading that is near, and how to choose it; empty if there is none.
        most: values of a row, at most.
        storage: width in a history event.
        unit: of a time.
    """

    column: str
    role: str
    form: Form = ""
    reason: str
    near: str = ""
    most: int = 1
    storage: Literal["i64", "u8"] = "i64"
    unit: TimeUnit = "ms"


def find_id(columns: Mapping[str, Facts], whose: Literal["user", "item"], given: str | None) -> Role:
    """The column of the user's or the item's id.

    Args:
        columns: of the sample.
        whose: id.
        given: the column, if it was told.

    Raises:
        ConfigError: there is none, or none that can be an id; says what to pass.
    """
    if given is not None:
        chosen = _given(columns, f"--{whose}", given)
        if chosen.kind not in ("integer", "text"):
            raise ConfigError(f"--{whose} {given}: its values are {_words(chosen)}; an id is an integer or a text")
        return _id_role(chosen, whose, f"--{whose} says so")
    words = USER if whose == "user" else ITEM
    fits = {n: f for n, f in columns.items() if f.kind in ("integer", "text") and is_name(n) and f.distinct > 1}
    scores = {name: score for name in fits if (score := names_id(name, words))}
    if not scores:
        raise ConfigError(
            f"no column looks like the {whose}'s id ({', '.join(columns)}): pass --{whose} COLUMN. Known names: "
            f"{'user_id, customer, visitorid' if whose == 'user' else 'item_id, product, movieId'} and the like, of "
            "letters, digits and _"
        )
    best = [name for name, score in scores.items() if score == max(scores.values())]
    chosen = fits[best[0]]
    role = _id_role(chosen, whose, f"its name; {chosen.distinct:,} distinct values in {chosen.present:,} rows")
    others = [name for name in scores if name != best[0]]
    return replace(role, near=f"{', '.join(others)}: pass --{whose} {others[0]}") if others else role


def find_time(columns: Mapping[str, Facts], given: str | None) -> Role:
    """The column of the time, and its unit.

    Raises:
        ConfigError: there is none, or none whose values are plausible times; says what to pass.
    """
    if given is not None:
        chosen = _given(columns, "--timestamp", given)
        unit = unit_of(chosen)
        if unit is None:
            raise ConfigError(f"--timestamp {given}: {_no_time(chosen)}")
        return _time_role(chosen, unit, "--timestamp says so")
    units = {name: unit for name, facts in columns.items() if (unit := unit_of(facts)) is not None}
    named = sorted((n for n in units if has(n, TIME) or parts(n)[-1:] == ("at",)), key=lambda n: len(parts(n)))
    typed = [name for name in units if columns[name].kind == "time"]
    counts = [n for n in units if columns[n].kind in ("integer", "number")]
    recent = [n for n in counts if _oldest_ms(columns[n], units[n]) >= _OLDEST_UNNAMED_MS]
    for names, reason in ((named, "its name"), (typed, "its values are times"), (recent, "its values are times")):
        if names:
            role = _time_role(columns[names[0]], units[names[0]], reason)
            others = [name for name in (*names[1:], *typed) if name not in (names[0], "arrival_ms")]
            return replace(role, near=f"{others[0]}: pass --timestamp {others[0]}") if others else role
    wrong = [facts for name, facts in columns.items() if has(name, TIME)]
    found = f"; {wrong[0].name!r}: {_no_time(wrong[0])}" if wrong else ""
    raise ConfigError(
        f"no column looks like the time ({', '.join(columns)}): pass --timestamp COLUMN{found}. "
        "A log without times can be given ones that only order its rows, such as a second for each row of 2026"
    )


def unit_of(facts: Facts) -> TimeUnit | None:
    """Unit in which nearly all values are plausible times, ``ms`` for texts and typed times; None if there is none."""
    if facts.kind not in ("integer", "number", "time", "text"):  # text: digits in quotes, in JSON
        return None
    values = list(facts.counts)[:_CHECKED]
    for unit in UNITS if facts.kind != "time" else UNITS[1:2]:
        if sum(_plausible(value, unit) for value in values) >= _PLAUSIBLE * len(values):
            return unit
    return None


def id_form(facts: Facts) -> Form:
    """``int`` or ``string``."""
    kind = facts.elements if facts.kind == "list" else facts.kind
    return "int" if kind == "integer" else "string"


def _id_role(facts: Facts, whose: str, reason: str) -> Role:
    if not is_name(facts.name):
        raise ConfigError(
            f"--{whose} {facts.name!r}: the column of an id is named by letters (a to z), digits and '_': rename it"
        )
    return Role(column=facts.name, role=f"{whose} id", form=id_form(facts), reason=reason)


def _time_role(facts: Facts, unit: TimeUnit, reason: str) -> Role:
    counted = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]
    how = "ISO 8601 or typed" if facts.kind == "time" else f"{counted} since 1970"
    oldest, newest = (_iso(facts, unit, pick) for pick in (min, max))
    days = " Whole days: what a user did on the same day is not seen." if _whole_days(facts, unit) else ""
    why = f"{reason}; {how}, from {oldest} to {newest}.{days}"
    return Role(column=facts.name, role="time", form="time", reason=why, unit=unit)


def _given(columns: Mapping[str, Facts], option: str, name: str) -> Facts:
    if name not in columns:
        raise ConfigError(f"{option} {name}: no such column; {nearest(name, columns)}")
    return columns[name]


def _no_time(facts: Facts) -> str:
    if facts.kind == "empty":
        return "it has no value in the rows looked at"
    return (
        f"{facts.example!r} is no plausible time; allowed: seconds, milliseconds, microseconds or nanoseconds since "
        "1970, or ISO 8601 like 2026-01-31T12:00:00Z"
    )


def _words(facts: Facts) -> str:
    return {"number": "numbers with a fraction", "time": "times", "list": "lists", "empty": "all missing"}.get(
        facts.kind, "of several kinds"
    )


def _ms(value: object, unit: TimeUnit) -> int | None:
    try:
        return time_ms("time", value, unit=unit)
    except RefusedValueError:
        return None


def _plausible(value: object, unit: TimeUnit) -> bool:
    found = _ms(value, unit)
    return found is not None and found < _SOON_MS


def _times(facts: Facts, unit: TimeUnit) -> list[int]:
    return [ms for value in list(facts.counts) if (ms := _ms(value, unit)) is not None]


def _oldest_ms(facts: Facts, unit: TimeUnit) -> int:
    return min(_times(facts, unit))


def _whole_days(facts: Facts, unit: TimeUnit) -> bool:
    return all(ms % 86_400_000 == 0 for ms in _times(facts, unit))


def _iso(facts: Facts, unit: TimeUnit, pick: object) -> str:
    import datetime

    ms = pick(_times(facts, unit))  # type: ignore[operator]
    return datetime.datetime.fromtimestamp(ms / 1000, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M")
