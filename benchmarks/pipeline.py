"""The daily loop: what a kill costs, minutes of a day, and AUC over five simulated days.

A log is cut in time: the first part of it is day 0, the rest five days of equally many events, whose times are
compressed into a day each. Three ways: the loop (each day goes on from the served model), the model of day 0 for all
days, and full retraining every day. A day's AUC is of the model that is served when it begins, on the day's samples,
which that model has not seen. Kills are SIGKILL of the command at random moments; a kill is lost if the next run does
not end with the release that an uninterrupted run ends with, promoted once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from recsys.bundle import Measured
    from recsys.data.sources.raw_log import RawLog

LIBRARIES = ("torch", "onnxruntime", "numpy", "duckdb")
DAY_MS = 86_400_000
FIRST_MS = 1_764_547_200_000
"""2025-12-01T00:00:00Z."""
FIRST_SHARE = 0.7
"""Of the log, that is day 0."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Days, kills, samples measured a day, and the part of MovieLens-1M that is taken."""

    days: int
    kills: int
    samples: int
    events: int
    users: int
    overrides: tuple[str, ...] = ()


_SMALL = ("tables.dim=4", "model.head=[8]", "model.attention=[8,4]", "data.recent=5", "train.batch_size=256")
SIZES = {
    "full": Size(days=5, kills=20, samples=20_000, events=1_000_000, users=3_000),
    "quick": Size(days=2, kills=2, samples=2_000, events=20_000, users=300, overrides=_SMALL),
    "tiny": Size(days=1, kills=1, samples=500, events=4_000, users=60, overrides=_SMALL),
}

SETTINGS = """\
name = "shop"
folder = "{folder}"
keep_days = 30
[data]
log = ["logs/*.parquet"]
features = "features.json"
users = "users.jsonl"
items = "items.jsonl"
label = "rating>=4"
[training]
recipe = "din_movielens_1m_demo"
mode = "{mode}"
full_every = ""
overrides = {overrides}
[gate]
least_samples = 20
margins = ["5%"]
[release]
store = "{folder}-releases"
"""


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    on = machine(LIBRARIES, **asdict(size))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        folder = Path(made)
        yield _kills(folder / "kills", size, on)
        for name, raw in _logs(options, size).items():
            yield from _days(folder / name, name, raw, size, on)


def _logs(options: argparse.Namespace, size: Size) -> dict[str, RawLog]:
    from recsys.data.sources.movielens.prepare import load_movielens
    from recsys.data.sources.synthetic.logs import make_synthetic_log

    movielens = load_movielens(options.data, cache_dir=Path(tempfile.gettempdir()), allow_download=False)
    return {"movielens": movielens, "own": make_synthetic_log(users=size.users, events_per_user=100, items=800)}


def _kills(folder: Path, size: Size, on: dict[str, Any]) -> Line:
    """Kill the second day at random moments, and run it again."""
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
        remove_folder(folder)
        shutil.copytree(begun, folder)
        # One after the other in equal parts of the time, at random within each: early and late moments are all there
        after_s = whole_s * (n + draw.random()) / size.kills
        with subprocess.Popen(arguments(settings, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(after_s)
                ended += 1
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        command(settings, 1)
        lost += outcome(folder) != expected
        say(f"kill {n + 1} of {size.kills}, after {after_s:.1f} s of {whole_s:.1f}: {lost} lost")
    return line(
        "pipeline.kills_lost",
        lost,
        "kills",
        higher_is_better=False,
        target=0,
        compared_with=f"{size.kills} kills; the release of a run that is not killed, promoted once",
        ended_before=ended,
        uninterrupted_s=round(whole_s, 1),
        on=on,
    )


def _days(folder: Path, name: str, raw: RawLog, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    """AUC and minutes of the three ways on one log."""
    from recsys.pipeline.state import all_states

    write_shop(folder, raw, size)
    seconds: dict[str, list[float]] = {}
    for way, mode in (("loop", "incremental"), ("full", "full")):
        settings = write_settings(folder, way, size, mode=mode)
        for day in range(size.days + 1):  # the last one only for its samples, of all days
            if way == "full" and day == size.days:
                continue
            began_s = time.monotonic()
            command(settings, day)
            seconds.setdefault(way, []).append(time.monotonic() - began_s)
            say(f"{name}, {way}, day {day}: {seconds[way][-1]:.0f} s")
    served = {way: releases_of(folder, way, size) for way in ("loop", "full")}
    served["day_0"] = [served["loop"][0]] * size.days
    found = {way: [measured(folder, way, day, of[day], size) for day in range(size.days)] for way, of in served.items()}
    states = all_states(folder / "loop")[0][: size.days]
    refused = sum(state.status == "refused" for state in states)
    for way, of_days in found.items():
        aucs = [day.metrics["auc"] or 0.0 for day in of_days]
        errors = [0.0 if day.evaluation is None else day.evaluation.standard_errors.get("auc", 0.0) for day in of_days]
        yield line(
            f"pipeline.auc_{way}.{name}",
            fmean(aucs),
            "AUC, mean of the days",
            higher_is_better=True,
            compared_with="the other two ways, on the same samples",
            days=[round(value, 4) for value in aucs],
            intervals_95=[
                [round(auc - 1.96 * e, 4), round(auc + 1.96 * e, 4)] for auc, e in zip(aucs, errors, strict=True)
            ],
            log_loss=[round(day.metrics["log_loss"] or 0.0, 4) for day in of_days],
            refused_days=refused if way == "loop" else None,
            source=raw.source,
            on=on,
        )
    daily = seconds["loop"][1:]
    yield line(
        f"pipeline.day_minutes.{name}",
        median(daily) / 60,
        "minutes",
        higher_is_better=False,
        compared_with=f"a day of full retraining: {median(seconds['full'][1:] or seconds['full']) / 60:.3g} minutes",
        spread=spread([each / 60 for each in daily]),
        events=len(raw) if size.events >= len(raw) else size.events,
        on=on,
    )


def write_shop(folder: Path, raw: RawLog, size: Size) -> None:
    """Write features, users, items, and a log of all days."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.data.sources.raw_log import MOVIELENS_1M

    (folder / "logs").mkdir(parents=True)
    (folder / "features.json").write_text(MOVIELENS_1M.to_json())
    for name, values, features in (
        ("users", raw.users, (MOVIELENS_1M.user_id, *MOVIELENS_1M.user)),
        ("items", raw.items, (MOVIELENS_1M.item_id, *MOVIELENS_1M.item)),
    ):
        columns = {feature.name: values[feature.name] for feature in features if feature.name in values}
        rows = zip(*columns.values(), strict=True)
        lines = (json.dumps(dict(zip(columns, map(_plain, row), strict=True))) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    order = np.lexsort((raw.item, raw.user, raw.timestamp_ms))[-size.events :]
    first = int(FIRST_SHARE * len(order))
    day = np.zeros(len(order), dtype=np.int64)
    day[first:] = 1 + np.arange(len(order) - first) * size.days // (len(order) - first)
    begins = np.searchsorted(day, np.arange(size.days + 2))
    place = np.arange(len(order)) - begins[day]
    times_ms = FIRST_MS + day * DAY_MS + place * DAY_MS // (begins[day + 1] - begins[day])
    table = {
        "user_id": raw.user[order],
        "movie_id": raw.item[order],
        "timestamp_ms": times_ms,
        "rating": raw.rating[order].astype(np.int64),
    }
    pq.write_table(pa.table(table), folder / "logs" / "all.parquet")


def write_settings(folder: Path, way: str, size: Size, *, mode: str) -> Path:
    """Write the settings of one way, in a folder and a store of its own."""
    file = folder / f"{way}.toml"
    file.write_text(SETTINGS.format(folder=way, mode=mode, overrides=json.dumps(list(size.overrides))))
    return file


def arguments(settings: Path, day: int) -> list[str]:
    """The command that runs a day, by its number."""
    return [sys.executable, "-m", "recsys.cli", "pipeline", str(settings), "--day", f"2025-12-{day + 1:02}", "--json"]


def command(settings: Path, day: int) -> dict[str, Any]:
    """Run a day to its end, whatever its gate says."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    done = subprocess.run(arguments(settings, day), capture_output=True, env=environment)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{settings}, day {day}: {done.stderr.decode()[-2000:]}")
    return dict(json.loads(done.stdout))


def outcome(folder: Path) -> tuple[Any, ...]:
    """Models that are served, the revision, and all releases."""
    from recsys.releases.release import release_names
    from recsys.releases.served import read_served

    served = read_served(folder / "loop-releases")
    assert served is not None
    return served.models, served.revision, release_names(folder / "loop-releases")


def releases_of(folder: Path, way: str, size: Size) -> list[str]:
    """The release that is served when each day after day 0 begins."""
    from recsys.pipeline.state import all_states

    served, live = [], ""
    for state in all_states(folder / way)[0][: size.days]:
        live = state.release or live
        served.append(live)
    return served


def measured(folder: Path, way: str, day: int, release: str, size: Size) -> Measured:
    """A release on all samples of the day after ``day``."""
    from recsys.export.measure import measure_bundle
    from recsys.pipeline.samples import open_samples
    from recsys.pipeline.state import all_states

    last = all_states(folder / "loop")[0][-1]
    dataset = open_samples(folder / "loop" / last.steps["samples"].output, recent=None)
    begin_ms = FIRST_MS + (day + 1) * DAY_MS
    times_ms = dataset.sample_time_ms
    chosen = ((times_ms >= begin_ms) & (times_ms < begin_ms + DAY_MS)).nonzero()[0]
    splits = {**dataset.samples.splits, "test": chosen, "train": (times_ms < begin_ms).nonzero()[0]}
    dataset = replace(dataset, samples=replace(dataset.samples, splits=splits))
    store = folder / ("full-releases" if way == "full" else "loop-releases")
    return measure_bundle(store / "releases" / release / "ranking", dataset, samples=size.samples)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    main("pipeline", run, parser(__doc__ or ""))
