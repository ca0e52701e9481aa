"""Kills of a day at random moments, each followed by a run to the end."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.common import Line, line, machine, say

from looping.shop import LIBRARIES, SIZES, Size, arguments, command, write_settings, write_shop


def kills(folder: Path, size: Size) -> Iterator[Line]:
    """``pipeline.kills_lost``: kill the second day at random moments, and run it again."""
    from recsys.data.sources.synthetic.logs import make_synthetic_log
    from recsys.releases.stored_files import remove_folder

    small = replace(SIZES["tiny"], days=1)
    write_shop(folder, make_synthetic_log(users=small.users, events_per_user=60, items=80), small)
    settings = write_settings(folder, "loop", small, mode="incremental")
    command(settings, 0)
    begun = folder.with_name("begun")
    shutil.copytree(folder, begun)
    began_s = time.monotonic()
    command(settings, 1)
    whole_s = time.monotonic() - began_s
    expected = outcome(folder)
    lost, ended, draw = 0, 0, random.Random(0)
    for n in range(size.kills):
        # One after the other in equal parts of the time, at random within each: early and late moments are all there
        place = (n + draw.random()) / size.kills
        while True:
            remove_folder(folder)
            shutil.copytree(begun, folder)
            after_s = whole_s * place
            ended_s = _killed(arguments(settings, 1), after_s)
            if ended_s is None:
                break
            ended, whole_s = ended + 1, ended_s  # the machine is faster now: that was no kill
        command(settings, 1)
        lost += outcome(folder) != expected
        say(f"kill {n + 1} of {size.kills}, after {after_s:.1f} s of {whole_s:.1f}: {lost} lost")
    yield line(
        "pipeline.kills_lost",
        lost,
        "kills",
        higher_is_better=False,
        target=0,
        compared_with=f"{size.kills} kills; the release of a run that is not killed, promoted once",
        ended_before=ended,
        uninterrupted_s=round(whole_s, 1),
        on=machine(LIBRARIES, **asdict(replace(small, kills=size.kills))),
    )


def _killed(arguments: list[str], after_s: float) -> float | None:
    """Start a command and kill it some time after; seconds it took if it ended before, None if it was killed."""
    began_s = time.monotonic()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return None
    return time.monotonic() - began_s


def outcome(folder: Path) -> tuple[Any, ...]:
    """Models that are served, the revision, and all releases."""
    from recsys.releases.release import release_names
    from recsys.releases.served import read_served

    served = read_served(folder / "loop-releases")
    assert served is not None
    return served.models, served.revision, release_names(folder / "loop-releases")
