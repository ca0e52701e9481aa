"""Admission by the time left, simulated: five times the load, slow moments, bursts. No second of it is real."""

from __future__ import annotations

import contextlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from recsys.errors import OverloadedError
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference.pace import Pace, Work

SERVICE_S = 0.003
CAPACITY = 1 / SERVICE_S
"""Requests that are served in a second."""


@dataclass(kw_only=True)
class Outcome:
    """Requests of a simulation.

    Attributes:
        answered: when each that was answered in time came, and how long it took.
        refused: when each that was refused at its arrival came.
        late: when each that was let in and not answered in time came.
        run_in_vain: those of the last for which the model ran.
    """

    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    run_in_vain: int = 0

    def p99_s(self) -> float:
        return float(np.percentile([took_s for _, took_s in self.answered], 99))


def simulate(
    *,
    load: float,
    seconds: float,
    deadline_s: float,
    by_time: bool = True,
    limit: int = 512,
    service_s: Callable[[float], float] = lambda now_s: SERVICE_S,
    burst: int = 1,
) -> Outcome:
    """Serve requests that come at random moments, one at a time, in the order in which they came.

    Args:
        load: requests that come over those that can be served.
        seconds: for which they come.
        deadline_s: of each, from its arrival.
        by_time: admission looks at the time left.
        limit: places.
        service_s: seconds that a request takes which is begun then.
        burst: so many come at a time.
    """
    numbers, pace, admission, found = random.Random(0), Pace(SERVICE_S), Admission(limit), Outcome()
    queue: deque[tuple[float, contextlib.ExitStack]] = deque()
    free_s, now_s = 0.0, 0.0
    arrivals = []
    while (now_s := now_s + numbers.expovariate(load * CAPACITY / burst)) < seconds:
        arrivals += [now_s] * burst
    heapq.heapify(arrivals)

    def serve_until(until_s: float) -> None:
        nonlocal free_s
        while queue and (begin_s := max(free_s, queue[0][0])) < until_s:
            came_s, place = queue.popleft()
            left_s = came_s + deadline_s - begin_s
            if begin_s > came_s and left_s < (pace.seconds(1) if by_time else 0.0):  # as FairLock has it
                found.late.append(came_s)
            else:
                took_s = service_s(begin_s)
                free_s = begin_s + took_s
                pace.measured(1, took_s=took_s)
                if took_s <= left_s:
                    found.answered.append((came_s, free_s - came_s))
                else:
                    found.late.append(came_s)
                    found.run_in_vain += 1
            place.close()

    while arrivals:
        came_s = heapq.heappop(arrivals)
        serve_until(came_s)
        place = contextlib.ExitStack()
        work = Work(pace.seconds(1), pace.seconds(1))
        try:
            place.enter_context(admission.enter(work, left_s=deadline_s if by_time else math.inf))
        except OverloadedError:
            found.refused.append(came_s)
        else:
            queue.append((came_s, place))
    serve_until(math.inf)
    assert admission.in_flight == 0
    return found


def test_at_five_times_the_load_nearly_all_the_time_goes_into_answers_that_come_in_time() -> None:
    found = simulate(load=5.0, seconds=20.0, deadline_s=0.1)
    assert len(found.answered) >= 0.98 * 20.0 * CAPACITY
    assert found.p99_s() <= 0.1
    assert found.late == [] and found.run_in_vain == 0
    assert len(found.refused) >= 0.75 * 5.0 * 20.0 * CAPACITY


def test_places_alone_answer_nearly_none_in_time() -> None:
    found = simulate(load=5.0, seconds=5.0, deadline_s=0.1, by_time=False, limit=64)
    assert len(found.answered) <= 0.1 * 5.0 * CAPACITY, "64 places are a queue of 192 ms"


def test_below_the_capacity_nobody_is_refused() -> None:
    found = simulate(load=0.8, seconds=20.0, deadline_s=0.2)
    assert found.refused == [] and found.late == []


def test_with_long_deadlines_a_burst_waits_and_is_served() -> None:
    found = simulate(load=0.5, seconds=20.0, deadline_s=30.0, burst=100)
    assert found.refused == [] and found.late == [] and len(found.answered) >= 1_000


def slow_between(begin_s: float, end_s: float) -> Callable[[float], float]:
    return lambda now_s: SERVICE_S * (10.0 if begin_s <= now_s < end_s else 1.0)


def test_after_a_slow_moment_calls_are_answered_as_before_within_their_deadline() -> None:
    found = simulate(load=0.7, seconds=20.0, deadline_s=0.1, service_s=slow_between(5.0, 5.3))
    trouble = [*found.refused, *found.late]
    assert trouble, "ten times slower is more than it can do"
    assert 5.0 - 0.1 <= min(trouble) and max(trouble) <= 5.3 + 0.1
    after = [took_s for came_s, took_s in found.answered if came_s > 5.3 + 0.2]
    assert np.percentile(after, 99) <= 0.03


def test_one_slow_moment_under_overload_costs_no_more_than_its_time() -> None:
    found = simulate(load=5.0, seconds=20.0, deadline_s=0.1, service_s=slow_between(5.0, 5.5))
    assert len(found.answered) >= 0.95 * 19.5 * CAPACITY
    assert found.run_in_vain <= 20
