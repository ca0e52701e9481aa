"""Time of `recsys export` with few and many features, and the nodes of the graphs that it writes.

A generated log with features of every sort in turns: ids as integers and as text, several values, numbers; of users,
items and requests. `recsys prepare` and one short training make a run of it, as a user would; the export is a
process of its own, from its start to its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import common

FEATURES = {22: 10.0, 202: 20.0}
"""Features -> target in seconds."""
TINY = {22: 8, 202: 12}
USERS, ITEMS, EVENTS = 200, 300, 5_000

IMPORTS = "import recsys.training.trained, recsys.export.onnx, torch.onnx"


def export_seconds(size: str, folder: Path) -> Iterator[common.Line]:
    """The figures ``way_in.export_s_<features>``."""
    for features, target in FEATURES.items():
        count = TINY[features] if size == "tiny" else features
        common.say(f"a log and a run with {count} features")
        here = folder / str(features)
        make_run(here, count)
        elapsed_s, cpu_s = child([*_recsys("export", "run", "--out", "bundle")], here)
        imports_s, imports_cpu_s = child([sys.executable, "-c", IMPORTS], here)
        on = common.machine(["torch", "onnx", "onnxscript"], features=count, events=EVENTS)
        yield common.line(
            f"way_in.export_s_{features}", elapsed_s, "s", higher_is_better=False, target=target,
            compared_with="importing torch, torchrec and the exporter, in the same minute", cpu_s=common.rounded(cpu_s),
            imports_s=common.rounded(imports_s), imports_cpu_s=common.rounded(imports_cpu_s),
            nodes={name: nodes_of(here / "bundle" / f"{name}.onnx") for name in ("user", "rank")}, on=on,
        )  # fmt: skip


def nodes_of(graph: Path) -> int:
    """Nodes of a graph; a function is one."""
    import onnx

    return len(onnx.load(graph, load_external_data=False).graph.node)


def make_run(folder: Path, count: int) -> None:
    """A prepared log and a run of DIN on it, ``run``, with so many features."""
    folder.mkdir(parents=True)
    write_log(folder, count)
    files = ["--users", "users.jsonl", "--items", "items.jsonl"]
    child(_recsys("prepare", "log.jsonl", "--features", "features.json", "--out", "prepared", *files), folder)
    settings = ["data.dataset=./prepared", f"train.batch_size={EVENTS}"]
    child(_recsys("train", "din", "--run-dir", "run", *settings), folder)


def write_log(folder: Path, count: int) -> None:
    """``features.json``, ``users.jsonl``, ``items.jsonl`` and ``log.jsonl``."""
    own = count - 4  # besides user, item, and two attributes of events
    of_user, of_context = _declared("user", own // 3), _declared("context", own // 3)
    of_item = _declared("item", own - 2 * (own // 3))
    attributes = [of_item[0], {"name": "action", "storage": "u8"}]
    declared = {
        "name": "wide",
        "user_id": {"name": "user_id"},
        "item_id": {"name": "item_id"},
        "user": of_user,
        "item": of_item,
        "context": of_context,
        "history": {"attributes": attributes, "recent": 20},
    }
    (folder / "features.json").write_text(json.dumps(declared))
    random = np.random.Generator(np.random.PCG64(0))

    def rows(name: str, ids: int, features: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: number, **{f["name"]: _value(f, random) for f in features}} for number in range(ids)]

    events = [
        {
            "user_id": int(random.integers(USERS)),
            "item_id": int(random.integers(ITEMS)),
            "timestamp_ms": 1_700_000_000_000 + 60_000 * number,
            "action": int(random.integers(4)),
            "label": int(random.integers(2)),
            **{f["name"]: _value(f, random) for f in of_context},
        }
        for number in range(EVENTS)
    ]
    files = {"users": rows("user_id", USERS, of_user), "items": rows("item_id", ITEMS, of_item), "log": events}
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def child(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds from a command's start to its end, and those of processor time that it took.

    Raises:
        SystemExit: it failed.
    """
    started_s = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
    elapsed_s = time.perf_counter() - started_s
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return elapsed_s, usage.ru_utime + usage.ru_stime


def _declared(prefix: str, count: int) -> list[dict[str, Any]]:
    sorts: list[dict[str, Any]] = [
        {},
        {"id_type": "string"},
        {},
        {"id_type": "string"},
        {"max_values": 3},
        {"kind": "numeric"},
    ]
    return [{"name": f"{prefix}_{number}", **sorts[number % len(sorts)]} for number in range(count)]


def _value(feature: dict[str, Any], random: np.random.Generator) -> Any:
    if feature.get("kind") == "numeric":
        return float(random.random())
    if "max_values" in feature:
        return random.integers(20, size=int(random.integers(3))).tolist()
    value = int(random.integers(30))
    return f"value {value}" if feature.get("id_type") == "string" else value


def _recsys(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "recsys.cli", *arguments]
