"""A log cut in time into days, settings of a pipeline on it, and the command that runs a day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from recsys.data.sources.raw_log import RawLog

LIBRARIES = ("torch", "onnxruntime", "numpy", "duckdb")
DAY_MS = 86_400_000
FIRST_MS = 1_764_547_200_000
"""2025-12-01T00:00:00Z."""
FIRST_SHARE = 0.7
"""Of the log, that is day 0."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Days, kills, samples measured a day, events taken of MovieLens-1M, users of the generated log."""

    days: int
    kills: int
    samples: int
    events: int
    users: int
    overrides: tuple[str, ...] = ()


_SMALL = ("tables.dim=4", "model.head=[8]", "model.attention=[8,4]", "data.recent=5", "train.batch_size=256")
SIZES = {
    "full": Size(days=5, kills=20, samples=20_000, events=1_000_000, users=1_000),
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
margins = ["5%", "calibration_error=0.05"]
[release]
store = "{folder}-releases"
"""


def write_shop(folder: Path, raw: RawLog, size: Size) -> int:
    """Write features, users, items, and a log of all days; returns the number of events."""
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
    return len(order)


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


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value
