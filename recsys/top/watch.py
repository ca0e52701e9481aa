"""Watch: readings of a server's page, again and again, also while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recsys.top.figures import Figures, figures_between
from recsys.top.page import Page, PageAwayError

_FIRST_S = 0.2
"""Time between the first two readings: something is shown at once."""


@dataclass(frozen=True)
class View:
    """Knowledge of a server now.

    Attributes:
        figures: the last ones; None: it has not answered twice yet.
        away: why it does not answer; empty: it does.
    """

    figures: Figures | None
    away: str = ""


def watch(
    read: Callable[[], Page], *, every_s: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[View]:
    """Yield a view after each reading, for ever. A server that comes back is read anew.

    Args:
        read: reads its page, or raises PageAwayError.
        every_s: time between two readings.
        sleep: waits so many seconds.
    """
    before: Page | None = None
    figures: Figures | None = None
    while True:
        wait_s = every_s
        try:
            now = read()
        except PageAwayError as error:
            before = None
            yield View(figures, str(error))
        else:
            if before is None:
                wait_s = min(_FIRST_S, every_s)
            else:
                figures = figures_between(before, now)
                yield View(figures)
            before = now
        sleep(wait_s)


def read_once(read: Callable[[], Page], *, over_s: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> Figures:
    """Figures of the time between two readings.

    Raises:
        PageAwayError: it does not answer.
    """
    before = read()
    sleep(over_s)
    return figures_between(before, read())
