"""Charts of an explanation: contributions that add up, and past events that are left out one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.plots import SignedBars, fitted

if TYPE_CHECKING:
    from recsys.client import Contribution, ExplainedEvents, Explanation

_LABEL_WIDTH = 40
"""Columns of an event's label: half of a terminal of 80."""

_AGES = (("y", 365 * 86_400), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def part_chart(found: Explanation, item: int | str) -> SignedBars:
    """Draw the base and the contributions, the largest first: all bars add up to the logit."""
    parts = sorted((p for p in found.contributions if not p.missing), key=lambda part: -abs(part.contribution))
    return SignedBars(
        title=f"Contributions to the logit of {one_line(str(item))}: they add up to {found.logit:+.4f}",
        labels=["(nothing known)", *(part_label(part, found.history_events) for part in parts)],
        values=[found.base_logit, *(part.contribution for part in parts)],
        error=[0.0, *(part.standard_error for part in parts)],
    )


def event_chart(found: Explanation, *, shown: int) -> list[SignedBars]:
    """Draw the events that matter most, newest first; none if there are none."""
    events = found.events
    if events is None or not len(events.items) or not shown:
        return []
    most = np.argsort(-np.abs(events.leave_out), kind="stable")[:shown]
    places = sorted(most.tolist(), reverse=True)
    of = (
        f"{len(places)} of {found.history_events:,} past events"
        if len(places) < found.history_events
        else "past events"
    )
    return [
        SignedBars(
            title=f"Logit less the logit without this event: {of}, newest first",
            labels=[event_label(found, events, place) for place in places],
            values=[float(events.leave_out[place]) for place in places],
        )
    ]


def part_label(part: Contribution, history_events: int) -> str:
    """Name a part, with its value."""
    if part.side == "history":
        return f"history: {history_events:,} events"
    value = part.value if isinstance(part.value, list) else [part.value]
    name = f"item's {part.name}" if part.side == "item" else part.name
    return one_line(f"{name}: {', '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in value)}")


def event_label(found: Explanation, events: ExplainedEvents, place: int) -> str:
    """Name an event: its age, its item, its attributes, and what the model's own weights say of it."""
    attributes = [f"{name} {column[place]}" for name, column in events.attributes.items() if _is_there(column[place])]
    text = one_line(", ".join([str(events.items[place]), *attributes]))
    weights = []
    if events.attention is not None:
        weights.append(f"w {events.attention[place]:.2f}")
    if events.shared_signatures is not None:
        weights.append(f"{events.shared_signatures[place]}/{found.signatures}")
    age = age_text(found.time_ms - int(events.timestamps_ms[place]))
    behind = "".join(f" {weight}" for weight in weights)
    return f"{age:>6} {fitted(text, _LABEL_WIDTH - 7 - len(behind))}{behind}"


def age_text(age_ms: int) -> str:
    """Age of an event in its largest unit.

    >>> age_text(90_000), age_text(3 * 86_400_000), age_text(5)
    ('1 min', '3 d', '0 s')
    """
    seconds = max(0, age_ms // 1000)
    for unit, size in _AGES:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return "0 s"


def one_line(text: str) -> str:
    """Text of an id as one line of letters: what is no letter to be printed is replaced.

    >>> one_line("Heat" + chr(10) + "(1995)"), one_line(chr(27) + "[31m") == chr(0xFFFD) + "[31m"
    ('Heat (1995)', True)
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, int | np.integer) and value == -1)
