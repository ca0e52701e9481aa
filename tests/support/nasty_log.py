"""A log with ties, repetitions, late events, missing values and text of every kind, as files of any format."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.log.prepare import RawInputs, prepare_log
from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric

NASTY = FeatureSet(
    name="nasty",
    user_id=Categorical(name="user", id_type="string"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age", default=-1.0)),
    item=(
        Categorical(name="brand", id_type="string"),
        Categorical(name="tags", id_type="string", max_values=3, table="tag"),
    ),
    context=(
        Categorical(name="page", id_type="string"),
        Numeric(name="price"),
        Categorical(name="slots", max_values=2),
    ),
    history=History(
        attributes=(Categorical(name="brand", id_type="string"), Categorical(name="action", storage="u8")), recent=4
    ),
    entities=(Entity(name="shop", id=Categorical(name="shop_id"), features=(Numeric(name="rank"),)),),
)
WORDS = ["a", "Z", "ä", "ß", "日本", "😀", "é", "z", "|", 'q"uote', "com,ma", "Ω"]
FORMATS = ("parquet", "csv", "jsonl")
T0 = 1_600_000_000_000
Rows = list[dict[str, Any]]


def nasty_rows() -> dict[str, Rows]:
    """Ties, repetitions, late events, missing values, text of every kind."""
    rng = random.Random(7)
    users = [*WORDS, *(f"user {n}" for n in range(8))]
    log: Rows = []
    for _ in range(700):
        timestamp = T0 + 1000 * rng.randrange(25)
        log.append(
            {
                "user": rng.choice(users),
                "item_id": rng.choice([0, 3, 7, -5, (1 << 62) + 9]),
                "timestamp_ms": timestamp,
                "arrival_ms": rng.choice([None, timestamp, timestamp + rng.randrange(5000)]),
                "action": rng.choice([None, 0, 1, 254]),
                "page": rng.choice([None, *WORDS]),
                "price": rng.choice([None, 0.1, -2.5, 1e-3, 3]),
                "slots": rng.choice([None, [], [1], [2, 1]]),
                "label": rng.choice([None, 0, 1]),
            }
        )
    log += [
        dict(row, **rng.choice([{}, {"price": 7.25}, {"label": 1}, {"arrival_ms": T0 + 90_000}])) for row in log[:150]
    ]
    rng.shuffle(log)
    return {
        "log": log,
        "user": [{"user": u, "city": rng.choice([None, *WORDS]), "age": rng.choice([None, 30.5])} for u in users],
        "item": [
            {"item_id": i, "brand": rng.choice([None, *WORDS[:8]]), "tags": rng.sample(WORDS[:8], n)}
            for n, i in enumerate([7, 0, -5, 3])
        ]
        + [{"item_id": (1 << 62) + 9, "brand": None, "tags": None}],
        "shop": [{"shop_id": n, "rank": n / 4} for n in (3, 1, 2)],
        "labels": [
            {
                "user": rng.choice(users),
                "item_id": rng.choice([0, 3, 7]),
                "timestamp_ms": T0 + 500 * rng.randrange(60),
                "label": rng.randrange(2),
                "page": rng.choice([None, *WORDS]),
                "price": 1.5,
                "slots": [4],
            }
            for _ in range(200)
        ],
    }


TYPES = {
    "item_id": pa.int64(), "timestamp_ms": pa.int64(), "arrival_ms": pa.int64(), "action": pa.int32(),
    "slots": pa.list_(pa.int64()), "tags": pa.list_(pa.string()), "label": pa.int8(), "price": pa.float64(),
    "age": pa.float32(), "rank": pa.float64(), "shop_id": pa.int32(),
}  # fmt: skip


def write(rows: Rows, path: Path) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        columns = {n: pa.array([r.get(n) for r in rows], TYPES.get(n)) for n in names}
        pq.write_table(pa.table(columns), path, row_group_size=97)
    elif path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                lists = {n: "|".join(map(str, v)) for n, v in row.items() if isinstance(v, list)}
                writer.writerow({**row, **lists})
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def nasty_inputs(
    folder: Path, kind: str, *, seed: int = 0, labels: bool = False, formats: Mapping[str, str] | None = None
) -> RawInputs:
    """Files of a format, but those that ``formats`` names, with the rows in another order for another seed."""
    source = folder / f"{kind}-{seed}"
    source.mkdir(parents=True, exist_ok=True)
    rows = nasty_rows()
    for found in rows.values():
        random.Random(seed).shuffle(found)
    (source / "log").mkdir(exist_ok=True)
    half = len(rows["log"]) // 2
    write(rows["log"][:half], source / "log" / f"a.{kind}")
    write(rows["log"][half:], source / "log" / f"b.{kind}")
    of = {name: source / f"{name}.{(formats or {}).get(name, kind)}" for name in ("user", "item", "shop", "labels")}
    entities = {name: str(write(rows[name], of[name])) for name in ("user", "item", "shop")}
    shown = (str(write(rows["labels"], of["labels"])),) if labels else ()
    return RawInputs(log=(str(source / "log"),), entities=entities, labels=shown)


def prepare_nasty(
    folder: Path,
    kind: str,
    *,
    seed: int = 0,
    out: str = "out",
    labels: bool = False,
    formats: Mapping[str, str] | None = None,
    **options: Any,
) -> Path:
    """Prepare the nasty log from these files."""
    inputs = nasty_inputs(folder, kind, seed=seed, labels=labels, formats=formats)
    prepare_log(NASTY, inputs, folder / out, **options)
    return folder / out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
