"""Door: calls of Ranker and Related that could not be answered in their time are refused before their message is here;
Explain's, which have a place of their own, are not.

Under five times the load four of five calls are refused, and what a refusal takes of the core is taken from the
answers (``process/listening/refusing_server.py``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from recsys.errors import OverloadedError
from recsys.serving.handlers.admission import Admission
from recsys.serving.rpc.calls import NO_DEADLINE_S
from recsys.serving.rpc.methods import METHODS, RANKER, RELATED

_OWN_PLACES = ("Explain", "Trending")
"""Calls that run no model of those that others wait for, or have a place of their own."""

_WAY_S = 0.02
"""A call that has passed counts as one that is in until it asks for its place, and for so long at most."""

Door = Callable[[str, float], OverloadedError | None]
"""Takes a call's path and its deadline, ``time.time`` seconds; returns why it is refused, None: it is not."""


def ranker_door(
    admission: Admission,
    *,
    default_s: float,
    clock: Callable[[], float] = time.time,
    steady: Callable[[], float] = time.monotonic,
) -> Door:
    """Make the door of calls of Ranker, other than Explain, and Related; all others pass.

    Of a call that has just come nothing is known but its deadline: it is taken to be like those that are in.

    Args:
        admission: of these calls.
        default_s: the time of a call without a deadline.
        clock: seconds since 1970, as gRPC has deadlines.
        steady: seconds that are never set.
    """
    services = (f"/{RANKER}/", f"/{RELATED}/")
    paths = frozenset(path for path, name in METHODS.items() if path.startswith(services) and name not in _OWN_PLACES)
    on_the_way: deque[float] = deque()
    asked = 0

    def refusal(path: str, deadline_s: float) -> OverloadedError | None:
        if not admission.in_flight or path not in paths:
            return None
        nonlocal asked
        now_s, before = steady(), asked
        asked = admission.asked
        arrived = asked - before
        while on_the_way and (arrived > 0 or now_s - on_the_way[0] > _WAY_S):
            arrived -= 1
            on_the_way.popleft()
        left_s = deadline_s - clock()
        error = admission.refusal(left_s=default_s if left_s > NO_DEADLINE_S else left_s, more=len(on_the_way))
        if error is None:
            on_the_way.append(now_s)
        return error

    return refusal
