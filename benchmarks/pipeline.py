"""The daily loop: what a kill costs, minutes of a day, and AUC over five simulated days.

``kills``: SIGKILL of the command at random moments; a kill is lost if the next run does not end with the release that
an uninterrupted run ends with, promoted once. ``movielens``, ``own``: a log is cut in time: the first part of it is day
0, the rest five days of equally many events, whose times are compressed into a day each. Three arms: the loop (each
day goes on from the served model), full retraining every day, and the model of day 0 for all days. A day's AUC is of
the model that is served when it begins, on the day's samples, which that model has not seen. The first two have the
same gate, and a line says which days it refused, and the AUC without it (``without_gate``). Arms are compared by the
paired difference on the same samples (``minus``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common import RESULTS, Line, main, parser
from looping.shop import SIZES, Size

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from recsys.data.sources.raw_log import RawLog

LOGS = ("movielens", "own")
PARTS = ("kills", *LOGS)


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    from looping.days import days
    from looping.kills import kills
    from looping.picture import draw

    size = SIZES[options.size]
    found: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        for part in (part for part in PARTS if part in (options.only or PARTS)):
            folder = Path(made) / part
            for line in kills(folder, size) if part == "kills" else days(folder, part, _log(part, options, size), size):
                found.append(line)
                yield line
    if options.size == "full":
        measured = {line["figure"] for line in found}
        draw([*(line for line in _recorded() if line["figure"] not in measured), *found])


def _log(part: str, options: argparse.Namespace, size: Size) -> RawLog:
    from recsys.data.sources.movielens.prepare import load_movielens
    from recsys.data.sources.synthetic.logs import make_synthetic_log

    if part == "own":
        return make_synthetic_log(users=size.users, events_per_user=100, items=800)
    return load_movielens(options.data, cache_dir=Path(tempfile.gettempdir()), allow_download=False)


def _recorded() -> list[Line]:
    """Lines of an earlier run."""
    file = RESULTS / "pipeline.jsonl"
    return [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    given = parser(__doc__ or "")
    given.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    main("pipeline", run, given)
