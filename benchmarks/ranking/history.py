"""A request's time over the length of the user's history: SDIM from its state, and target attention over everything.

One caller that waits for each answer. A part of ``rank.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, cores, line, pinned, rounded, say

if TYPE_CHECKING:
    from ranking.setting import Histories, Setting
    from ranking.size import Size

TARGET = 1.1
USERS = 8
CALLS, SLOW_CALLS = 200, 12
MOST_ATTENDED = 10_000
"""Target attention over more events takes gigabytes for one request."""

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "rank_history.png"


def lines(setting: Setting, size: Size, *, on: dict[str, Any], full: bool) -> Iterator[Line]:
    """``rank.history_growth`` and the curve."""
    from ranking import setting as rank_setting

    first_user = size.users
    histories = []
    for length in size.lengths:
        say(f"{USERS} users with {length:,} events")
        histories.append(
            rank_setting.fill(setting, length=length, users=USERS, first_user=first_user, items=size.items)
        )
        first_user += USERS
    sdim = _p50s(setting, rank_setting.reference_bundle(setting.folder, items=size.items), histories, size)
    short = [each for each in histories if each.length <= MOST_ATTENDED]
    every = _p50s(setting, rank_setting.reference_bundle(setting.folder, items=size.items, long="din"), short, size)
    growth = [longest / shortest for longest, shortest in zip(sdim[-1], sdim[0], strict=True)]
    yield line(
        "rank.history_growth", median(growth), "ratio", higher_is_better=False, target=TARGET,
        compared_with=f"p50 of a history of {size.lengths[0]:,} events, that of {size.lengths[-1]:,} over it",
        lengths=size.lengths, p50_ms=[rounded(median(ms)) for ms in sdim],
        full_attention_p50_ms=[rounded(median(ms)) for ms in every], on=on,
    )  # fmt: skip
    if full:
        _draw(size.lengths, [median(ms) for ms in sdim], [median(ms) for ms in every])


def _p50s(setting: Setting, bundle: Path, histories: list[Histories], size: Size) -> list[list[float]]:
    """Milliseconds of the median call in each of three turns, by length."""
    from harness import serving_parts
    from harness.workers import client_latencies, worker

    from ranking import setting as rank_setting
    from recsys.client import Client

    turns: list[list[float]] = [[] for _ in histories]
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(rank_setting.pinned_server(setting, bundle))
        client = stack.enter_context(Client(address, timeout_s=120.0))
        measures: list[Any] = []
        for which in histories:
            requests: list[serving_parts.Request] = setting.requests(which, 2 * USERS)
            for request in requests:  # the first sight of a history is not what is measured
                answer = client.rank(user=request.user, candidates=request.candidates)
                assert answer.history_events == which.length, answer
            with pinned(cores()[-1]):
                measures.append(stack.enter_context(worker(client_latencies, address, requests)))
        for _ in range(3):
            for number, (which, measure) in enumerate(zip(histories, measures, strict=True)):
                slow = "din" in bundle.name and which.length > 1_000
                calls = CALLS if size.round_s > 1 and not slow else SLOW_CALLS
                turns[number].append(median(measure(calls)))
    return turns


def _draw(lengths: tuple[int, ...], sdim: list[float], every: list[float]) -> None:
    from recsys.plots import Chart, Series, write_png

    chart = Chart(
        title="A Rank call of 200 candidates",
        x_label="events in the user's history",
        y_label="median, ms",
        series=[
            Series("SDIM from its state", lengths, sdim),
            Series("target attention over everything", lengths[: len(every)], every),
        ],
        log_x=True,
        log_y=True,
    )
    write_png([chart], PICTURE)
