"""A shop whose log grows by a day, and the settings of its pipeline: small enough for tests."""

from __future__ import annotations

import functools
import json
import random
import shutil
from pathlib import Path
from typing import Any

from recsys.pipeline.days import Day, day_of
from recsys.pipeline.loop import Outcome, run_day
from recsys.pipeline.settings import read_settings
from recsys.pipeline.steps import OUTPUTS
from support.tiny_run import folder_of_this_process

FIRST_MS = 1_764_547_200_000
"""2025-12-01T00:00:00Z."""
DAY_MS = 86_400_000
EVENTS, USERS, ITEMS = 600, 40, 30

FEATURES: dict[str, Any] = {
    "name": "shop",
    "user_id": {"name": "user_id"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "history": {"recent": 5},
}

SETTINGS = """\
name = "shop"
[data]
log = ["logs/*.csv"]
features = "features.json"
[training]
recipe = "dcn"
overrides = ["tables.dim=4", "tables.learning_rate=0.3", "model.head=[8]", "model.cross_layers=1",
             "train.batch_size=64", "train.warmup_steps=0", "train.checkpoint_steps=5", "rows.min_count=1"]
[gate]
margins = ["60%", "calibration_error=0.9"]
smallest_segment = 10000
least_samples = 20
"""


def write_shop(folder: Path, *, days: int = 1) -> Path:
    """Write features, settings and the logs of the first days; returns the settings' file."""
    (folder / "logs").mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "shop.toml").write_text(SETTINGS)
    for day in range(days):
        write_day(folder, day)
    return folder / "shop.toml"


def write_day(folder: Path, day: int, *, events: int = EVENTS, label: int | None = None, name: str = "") -> Path:
    """Write a day's log: what an item's number says of its label, or one label for all."""
    draw = random.Random(f"{day} {name}")
    lines = ["user_id,item_id,timestamp_ms,label"]
    for n in range(events):
        item = draw.randrange(ITEMS)
        liked = int(item % 2 == 0) if draw.random() < 0.9 else int(item % 2)
        moment = FIRST_MS + day * DAY_MS + n * DAY_MS // events
        lines.append(f"{draw.randrange(USERS)},item {item},{moment},{liked if label is None else label}")
    file = folder / "logs" / f"{name or day}.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def nth_day(day: int) -> Day:
    """The day of that number, from 0."""
    return day_of(f"2025-12-{day + 1:02}", None, zone="UTC", now_ms=FIRST_MS + 100 * DAY_MS)


def with_setting(file: Path, section: str, line: str) -> None:
    """Add a line to a section of a settings file."""
    text = file.read_text()
    mark = f"[{section}]\n"
    file.write_text(text.replace(mark, f"{mark}{line}\n") if mark in text else f"{text}{mark}{line}\n")
    read_settings(file)


@functools.cache
def first_day() -> Path:
    """A shop with the logs of two days, whose first day was run; made once in a process, to be copied."""
    folder = folder_of_this_process() / "shop-first-day"
    run(write_shop(folder, days=2), 0)
    return folder


@functools.cache
def second_day() -> Path:
    """:func:`first_day`, and the second day was run, too."""
    folder = folder_of_this_process() / "shop-second-day"
    shutil.copytree(first_day(), folder)
    run(folder / "shop.toml", 1)
    return folder


def before_the_gate(folder: Path) -> Path:
    """A shop whose second day was killed when its bundle was there: nothing was measured, pushed, or promoted."""
    shutil.copytree(first_day(), folder)
    for name in ("samples", "train", "bundle"):
        made = Path("pipeline") / OUTPUTS / name
        shutil.copytree(second_day() / made, folder / made, dirs_exist_ok=True)
    return folder / "shop.toml"


def run(settings: Path, day: int, **options: Any) -> Outcome:
    """Run a day, by its number from 0, in this process."""
    return run_day(read_settings(settings), nth_day(day), **options)
