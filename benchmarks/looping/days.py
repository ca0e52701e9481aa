"""AUC over simulated days with the loop, with the first day's model, and with full retraining; minutes of a day."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, say, spread

from looping.arms import Arm, arm_of, day_after, first_of, interval_of, paired
from looping.shop import LIBRARIES, Size, command, write_settings, write_shop

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from recsys.bundle import Measured
    from recsys.data.sources.raw_log import RawLog

MODES = {"loop": "incremental", "full": "full"}
ARMS = ("loop", "full", "day_0")


def days(folder: Path, name: str, raw: RawLog, size: Size) -> Iterator[Line]:
    """``pipeline.auc_ARM`` and ``pipeline.day_minutes`` on one log."""
    from recsys.pipeline.samples import open_samples
    from recsys.pipeline.state import all_states

    events = write_shop(folder, raw, size)
    on = machine(LIBRARIES, **asdict(size))
    seconds: dict[str, list[float]] = {way: [] for way in MODES}
    for day in range(size.days + 1):  # the last one only for its samples, of all days
        for way, mode in MODES.items():  # in turns: a machine that slows down does so for both
            if way == "full" and day == size.days:
                continue
            settings = write_settings(folder, way, size, mode=mode)
            began_s = time.monotonic()
            ended = command(settings, day)
            seconds[way].append(time.monotonic() - began_s)
            say(f"{name}, {way}, day {day}: {ended['status']}, {seconds[way][-1]:.0f} s {ended['reasons']}")
    arms = {way: arm_of(folder, way, size.days) for way in MODES}
    arms["day_0"] = first_of(arms["loop"])
    last = all_states(folder / "loop")[0][-1]
    dataset = open_samples(folder / "loop" / last.steps["samples"].output, recent=None)
    known: dict[tuple[Path, int], Measured] = {}

    def measured(bundles: Sequence[Path]) -> list[Measured]:
        from recsys.export.measure import measure_bundle

        for day, bundle in enumerate(bundles):
            if (bundle, day) not in known:
                say(f"{name}: measuring {bundle.parent.name} on the day after day {day}")
                known[bundle, day] = measure_bundle(bundle, day_after(dataset, day), samples=size.samples)
        return [known[bundle, day] for day, bundle in enumerate(bundles)]

    served = {way: measured(arm.served) for way, arm in arms.items()}
    for way in ARMS:
        yield _auc_line(
            name, way, arms[way], served, measured(arms[way].trained), re.sub(r" from \S+", "", raw.source), on
        )
    daily = seconds["loop"][1 : size.days] or seconds["loop"][1:]
    full = seconds["full"][1:] or seconds["full"]
    yield line(
        f"pipeline.day_minutes.{name}",
        median(daily) / 60,
        "minutes",
        higher_is_better=False,
        compared_with=f"a day of full retraining: {median(full) / 60:.3g} minutes",
        spread=spread([each / 60 for each in daily]),
        spread_full=spread([each / 60 for each in full]),
        events=events,
        on=on,
    )


def _auc_line(
    name: str,
    way: str,
    arm: Arm,
    served: dict[str, list[Measured]],
    trained: list[Measured],
    source: str,
    on: dict[str, Any],
) -> Line:
    mine = served[way]
    return line(
        f"pipeline.auc_{way}.{name}",
        fmean(_auc(each) for each in mine),
        "AUC, mean of the days",
        higher_is_better=True,
        compared_with="the other two arms, on the same samples of the same days",
        days=[round(_auc(each), 4) for each in mine],
        intervals_95=[interval_of(each) for each in mine],
        minus={other: paired(mine, served[other]) for other in ARMS if other != way},
        log_loss=[round(each.metrics["log_loss"] or 0.0, 4) for each in mine],
        log_loss_minus={other: paired(mine, served[other], "log_loss") for other in ARMS if other != way},
        refused_days=sum(map(bool, arm.refused)),
        refusals=arm.refused,
        without_gate=[round(_auc(each), 4) for each in trained],
        source=source,
        on=on,
    )


def _auc(measured: Measured) -> float:
    return measured.metrics["auc"] or 0.0
