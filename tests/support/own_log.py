"""A log of one's own, as `recsys prepare` leaves it: a shop's events, with and without attributes of the history."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from recsys.cli import app
from support.tiny_run import folder_of_this_process

USERS, EVENTS, ITEMS = 120, 20, 40
START_MS = 1_700_000_000_000
_DAYTIMES = ("morning", "noon", "night")

SHOP: dict[str, Any] = {
    "name": "shop",
    "user_id": {"name": "user_id"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "user": [{"kind": "numeric", "name": "age", "default": 30.0}],
    "item": [{"kind": "categorical", "name": "category", "id_type": "string"}],
    "context": [{"kind": "categorical", "name": "daytime", "id_type": "string"}],
    "history": {"recent": 10, "attributes": [{"name": "category", "id_type": "string"}]},
}
"""Text ids, a number, a category that the history carries, a context."""

BARE: dict[str, Any] = {
    "name": "bare",
    "user_id": {"name": "user_id"},
    "item_id": {"name": "item_id", "id_type": "string"},
    "history": {"recent": 10},
}
"""Ids, and a history of nothing but its items."""


def prepared_csv(folder: Path, features: dict[str, Any], rows: Iterable[str], *options: str) -> Path:
    """The folder of a log of these rows: the columns that the features declare, and ``label``."""
    declared = [features["user_id"], features["item_id"], {"name": "timestamp_ms"}, *features.get("context", [])]
    columns = [each["name"] for each in (*declared, *features["history"].get("attributes", []))]
    (folder / "log.csv").write_text("\n".join([",".join([*columns, "label"]), *rows]) + "\n")
    (folder / "features.json").write_text(json.dumps(features))
    given = [str(folder / "log.csv"), "--features", str(folder / "features.json")]
    result = CliRunner().invoke(app, ["prepare", *given, "--out", str(folder / features["name"]), *options])
    if result.exception is not None:
        raise result.exception
    return folder / str(features["name"])


@functools.cache
def prepared(name: str = "shop") -> Path:
    """The folder of the log ``shop`` or ``bare``, made once in a process; what `recsys prepare` read is beside it."""
    folder = folder_of_this_process() / f"own-log-{name}"
    folder.mkdir()
    features = {"shop": SHOP, "bare": BARE}[name]
    (folder / "features.json").write_text(json.dumps(features))
    draw = random.Random(0)
    context = "daytime," if features is SHOP else ""
    lines = [f"user_id,item_id,timestamp_ms,{context}label"]
    for n in range(EVENTS):
        for user in range(USERS):
            item, moment = draw.randrange(ITEMS), START_MS + 3_600_000 * n + user
            value = f"{draw.choice(_DAYTIMES)}," if context else ""
            lines.append(f"{user},item {item},{moment},{value}{int((item + user) % 3 == 0)}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    given = [str(folder / "log.csv"), "--features", str(folder / "features.json"), "--out", str(folder / name)]
    if features is SHOP:
        (folder / "users.csv").write_text("user_id,age\n" + "".join(f"{u},{20 + u % 50}\n" for u in range(USERS)))
        items = "".join(f"item {i},kind {i % 5}\n" for i in range(ITEMS))
        (folder / "items.csv").write_text(f"item_id,category\n{items}")
        given += ["--users", str(folder / "users.csv"), "--items", str(folder / "items.csv")]
    result = CliRunner().invoke(app, ["prepare", *given])
    if result.exception is not None:
        raise result.exception
    return folder / name
