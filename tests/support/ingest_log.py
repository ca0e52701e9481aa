"""A small log of events with everything that is difficult about logs, and what the store must hold after it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import Events, make_events
from recsys.features.history.rules import canonical

EVENTS = FeatureSet(
    name="ingested",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(Categorical(name="genre"),),
    history=History(attributes=(Categorical(name="rating", storage="u8"), Categorical(name="genre")), max_events=5000),
)
T0_MS = 1_700_000_000_000

Row = dict[str, Any]


def make_log(count: int, *, users: int = 40, seed: int = 0) -> list[Row]:
    """Events roughly in order of time: late ones, ties, and a tenth that are sent twice."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows: list[Row] = []
    for i in range(count):
        if rows and random.random() < 0.1:
            rows.append(dict(rows[int(random.integers(len(rows)))]))
            continue
        timestamp_ms = T0_MS + i - int(random.integers(50)) * int(random.random() < 0.2)
        rows.append(
            {
                "user_id": int(random.integers(users)),
                "item_id": int(random.integers(20)),
                "timestamp_ms": timestamp_ms,
                "arrival_ms": timestamp_ms + int(random.integers(5)),
                "rating": int(random.integers(1, 6)),
                "genre": int(random.integers(9)),
            }
        )
    return rows


def packed(rows: Sequence[Row], features: FeatureSet = EVENTS) -> Events:
    """Rows as events, in their order."""
    columns = {name: [row.get(name) for row in rows] for name in ("item_id", "timestamp_ms", "arrival_ms")}
    return make_events(
        features,
        item=columns["item_id"],
        timestamp_ms=columns["timestamp_ms"],
        arrival_ms=columns["arrival_ms"],
        attributes={name: [row.get(name) for row in rows] for name in ("rating", "genre")},
    )


def assert_store_holds(url: str, rows: Sequence[Row], features: FeatureSet = EVENTS) -> None:
    """Every user's history is the offline one, to the last byte, and its counters count it."""
    asyncio.run(assert_holds(url, rows, features))


async def assert_holds(url: str, rows: Sequence[Row], features: FeatureSet = EVENTS) -> None:
    """:func:`assert_store_holds`, awaited."""
    by_user: dict[int, list[Row]] = {}
    for row in rows:
        by_user.setdefault(row["user_id"], []).append(row)
    store = RedisFeatureStore.connect(url, features)
    try:
        found = await store.histories(list(by_user), limit=1 << 20, timeout_s=30)
    finally:
        await store.close()
    for sent, (header, events) in zip(by_user.values(), found, strict=True):
        expected = canonical(features, packed(sent, features))
        assert events.tobytes() == expected.tobytes()
        assert (header.appended, header.trimmed) == (len(expected), 0)


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Row], *, group_rows: int = 700) -> Path:
    """Columns, in several row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group_rows)
    return path


def write_features(path: Path, features: FeatureSet = EVENTS) -> Path:
    """What ``--features`` takes."""
    path.write_text(features.to_json())
    return path


@contextmanager
def ingesting(*arguments: str | Path, url: str, cwd: Path, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """``recsys ingest`` of EVENTS in a process of its own."""
    features = cwd / "features.json"
    if not features.exists():
        write_features(features)
    command = [sys.executable, "-m", "recsys.cli", "ingest", *map(str, arguments)]
    command += ["--features", str(features), "--redis-url", url, "--json"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**inherited, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ingested(*arguments: str | Path, url: str, cwd: Path) -> Row:
    """``recsys ingest`` to its end: what it says in JSON."""
    with ingesting(*arguments, url=url, cwd=cwd) as process:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    counts: Row = json.loads(out)
    return counts
