"""Make what this folder holds, with the package of the commit in ``answers.json``. See README.md."""
# ruff: noqa: E402, I001

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

BEFORE, HERE = Path(sys.argv[1]).resolve(), Path(__file__).resolve().parent
sys.path[:0] = [str(BEFORE), str(BEFORE / "tests"), str(HERE.parents[1])]

import numpy as np
import redis
import torch
from support.replay import NOW_MS, arithmetic, replay, stored
from tiny_retrieval import RetrievalTables, write_tiny_retrieval
from tiny_run import NAMESAKES, odd_config, odd_dataset

import recsys
from recsys.client import Client
from recsys.data.samples import write_samples
from recsys.export.onnx import export_bundle
from recsys.feature_store.embedded import EmbeddedRedis
from recsys.models.sdim import SdimConfig
from recsys.serving.server import running_server
from recsys.serving.settings import Settings
from recsys.training.loop import train
from recsys.training.table_plan import build_row_maps
from recsys.training.trained import build, evaluate_run

assert Path(recsys.__file__).parent == BEFORE / "recsys", recsys.__file__
time.time_ns = lambda: NOW_MS * 1_000_000  # the clock that events arrive at and requests are made at

RANDOM = np.random.Generator(np.random.PCG64(13))
ITEMS = [7, 1 << 40, (1 << 62) - 2, 3, 4]
T0_MS = NOW_MS - 1_000_000
HISTORY = replace(NAMESAKES.history, recent=200, max_events=300)
FEATURES = replace(NAMESAKES, name="compatibility", history=HISTORY)


def call(method: str, **arguments: Any) -> dict[str, Any]:
    """One call of the client."""
    return {"method": method, "arguments": arguments}


def events(user: int, count: int, *, at: int = 0, **more: Any) -> dict[str, Any]:
    """Append so many events, 10 ms apart."""
    return call(
        "append_events",
        user=user,
        items=RANDOM.choice(ITEMS, count).tolist(),
        timestamps_ms=(T0_MS + at + 10 * np.arange(count)).tolist(),
        attributes={"action": RANDOM.integers(1, 4, count).tolist()},
        **more,
    )


def rank(user: int, **more: Any) -> dict[str, Any]:
    """Rank every item and one that nobody knows."""
    return call("rank", user=user, candidates=[*ITEMS, 99], features={"present": user / 4}, **more)


def look(user: int) -> list[dict[str, Any]]:
    """Every call that only reads, for one user."""
    return [
        rank(user),
        call("retrieve", user=user, top_k=4),
        call("retrieve", user=user, top_k=6, include_seen=True, exclude=[3]),
        call("recommend", user=user, top_k=3, candidates=5, include_seen=True),
        call("get_history", user=user, limit=7),
        call("get_features", entity="user", ids=[user]),
    ]


FILL = [
    call(
        "put_entities",
        entity="user",
        ids=[0, 1, 2],
        features={"type": [1, 2, 0], "size": [0.5, -1.5, 0.25], "keys": [[1, 2], [], [2]]},
    ),
    call(
        "put_entities",
        entity="item",
        ids=ITEMS,
        features={"type": [[1], [2, 9], [], [9], [1, 2]], "size": [1.0, 2.0, 3.0, 4.0, 5.0]},
    ),
    events(0, 3, source="log", offsets=[1, 2, 3]),
    events(1, 150),
    events(2, 320),
    events(3, 170),
]
ROUNDS = [
    [*look(0), *look(2), *look(8), rank(1)],  # user 2 has a state in the folder
    [
        events(0, 4, at=15, source="log", offsets=[3, 4, 5, 6]),
        events(1, 40, at=5_000),
        events(2, 40, at=9_000),
        events(9, 1),
    ],
    [rank(1), rank(2), rank(3), call("rank", user=2, candidates=ITEMS, top_k=2, time_ms=T0_MS + 2_000)],
    [call("get_histories", users=[0, 1, 9, 10]), *look(2), *look(1)],
]  # fmt: skip


def served(bundle: Path, redis_dir: Path, rounds: list[list[dict[str, Any]]]) -> tuple[list[Any], dict[str, Any]]:
    """Answers of a server, started anew for each round so that its states are written, and what Redis holds then."""
    answers = []
    with EmbeddedRedis(redis_dir) as server:
        for calls in rounds:
            settings = Settings(
                bundle=bundle, retrieval=HERE / "finder", port=0, redis_url=server.url, store_timeout_ms=5_000
            )
            with running_server(settings) as running, Client(running.address, timeout_s=30) as client:
                answers.append(replay(client, calls))
        return answers, stored(server.url)


def copied(folder: Path, to: Path) -> Path:
    """The stored data in a folder that a Redis may write to."""
    to.mkdir()
    shutil.copy(folder / "appendonly.aof", to)
    return to


def make_redis(work: Path) -> None:
    """A data folder with histories, features, and a state of user 2."""
    folder = work / "filled"
    served(HERE / "sdim", folder, [FILL, [rank(2)]])
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as admin:
        for key in admin.keys():
            admin.persist(key)  # a state expires after days; this one must be here in years
        admin.bgrewriteaof()
        while (
            admin.info("persistence")["aof_rewrite_in_progress"] or admin.info("persistence")["aof_rewrite_scheduled"]
        ):
            pass
        assert admin.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    (HERE / "redis").mkdir()
    shutil.copy(folder / "appendonly.aof", HERE / "redis")


class Killed(Exception):
    """Ends a training in its midst."""


def make_models(work: Path) -> dict[str, Any]:
    """A run that was broken off, what becomes of it, and the bundles."""
    dataset = odd_dataset(FEATURES, work)
    shutil.copytree(work / FEATURES.name, HERE / "data" / "events")
    write_samples(dataset.samples, HERE / "data" / "samples")
    config = odd_config()

    def interrupt(progress: Any) -> None:
        if progress.step == 8:
            raise Killed

    try:
        train(config, dataset, HERE / "run", report=interrupt)
    except Killed:
        pass
    shutil.copytree(HERE / "run", work / "run")
    result = train(config, dataset, work / "run", resume=True)
    export_bundle(result.trained, dataset, HERE / "din", name="din")
    sdim = replace(config, model=SdimConfig(short=4, nearest=3, attention=(6, 5), head=(7,)))
    torch.manual_seed(4)
    made = build(sdim, FEATURES, build_row_maps(sdim, dataset), device=torch.device("cpu"))
    export_bundle(made, dataset, HERE / "sdim", name="sdim", quantize="int8")
    tables = RetrievalTables(
        user_keys=np.arange(4),
        users_ND=RANDOM.normal(size=(4, 3)).astype(np.float32),
        item_keys=np.sort(ITEMS),
        items_MD=RANDOM.normal(size=(5, 3)).astype(np.float32),
        popularity_M=np.array([3, 1, 4, 1, 5], dtype=np.float32),
    )
    write_tiny_retrieval(HERE / "finder", tables, features=replace(FEATURES, user=(), item=(), context=()))
    return {
        "validation": asdict(result.validation),
        "test": asdict(result.test),
        "evaluated": asdict(evaluate_run(result.trained, dataset, "test")),
    }


def main() -> None:
    """Make everything anew."""
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    commit = subprocess.run(["git", "-C", BEFORE, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        run = make_models(work)
        make_redis(work)
        answers: dict[str, Any] = {}
        for name in ("din", "sdim"):
            made = served(HERE / name, copied(HERE / "redis", work / name), ROUNDS)
            again = served(HERE / name, copied(HERE / "redis", work / f"{name} again"), ROUNDS)
            assert made == again, "the same calls must have the same answers"
            answers[name] = {"answers": made[0], "stored": made[1]}
    din, sdim = (answers[name]["stored"] for name in ("din", "sdim"))
    common = {key: value for key, value in din.items() if sdim.get(key) == value}
    for made in answers.values():
        made["stored"] = {key: value for key, value in made["stored"].items() if key not in common}
    facts = {
        "commit": commit.stdout.strip(),
        "arithmetic": arithmetic(),
        "run": run,
        "rounds": ROUNDS,
        "stored": common,
        "served": answers,
    }
    (HERE / "answers.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")


main()
