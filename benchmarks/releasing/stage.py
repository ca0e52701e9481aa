"""Setting of the figures on a served store: two releases of large tables, a filled Redis, servers that follow them.

Both releases are the reference model; in the second all vectors of items are others, so that its table is another
file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import cores, say

from releasing.bundles import variant

if TYPE_CHECKING:
    from recsys.releases.served import Served
    from recsys.releases.status import ServerStatus

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf")
MODEL = "reference"
TABLE = "item_id.rows"
WORKERS = 2
LOAD = 0.7
POLL_S = 0.05
_START_S = 180.0
_SWITCH_S = 400.0
"""A server gives up loading after 300 s, and says so."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurements.

    Attributes:
        items: rows of the large table, of 128 bytes each.
        hashed: they have no id map, which would add to what is loaded.
        replay: RECSYS_RELEASE_REPLAY; the default's 64 make most of a switch's time.
        closed_s: how long the calls per second that the server reaches are measured.
        warm_s: load before the first switch.
        after_s: that the window of a switch goes on after it is done.
        outside_s: load without a switch after each, at most; as long as the switch if that is shorter.
        beyond_mb: memory that the limit allows beyond 1.3 x the table: two workers and a check take more than 30 %
            of a table that is not large.
    """

    items: int
    switches: int
    limited_switches: int
    rollbacks: int
    closed_s: float
    warm_s: float
    hashed: bool = False
    replay: int = 64
    after_s: float = 2.0
    outside_s: float = 12.0
    beyond_mb: int = 0
    users: int = 256
    events: int = 1_000
    requests: int = 1_024
    candidates: int = 200
    callers: int = 16


SIZES = {
    "full": Size(
        items=7_812_500, hashed=True, switches=50, limited_switches=10, rollbacks=10, closed_s=10.0, warm_s=20.0
    ),
    "quick": Size(
        items=781_250, switches=6, limited_switches=2, rollbacks=3, closed_s=2.0, warm_s=3.0, replay=8,
        after_s=1.0, beyond_mb=500, users=32, requests=128,
    ),
    "tiny": Size(
        items=1_000, switches=1, limited_switches=1, rollbacks=1, closed_s=0.2, warm_s=0.2, replay=2, after_s=0.2,
        beyond_mb=500, users=8, events=120, requests=8, candidates=20, callers=4,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A store of two releases, of which the first is live, and what servers and callers of it need.

    Attributes:
        folder: for what servers write.
        store: of releases.
        bundles: folder of what was exported.
        releases: names of the two.
        table_bytes: of the large table of one release.
        messages: serialised requests.
        probe: a request of one candidate.
    """

    size: Size
    folder: Path
    redis_url: str
    store: Path
    bundles: Path
    releases: tuple[str, str]
    table_bytes: int
    messages: list[bytes]
    probe: bytes

    def promote(self, release: str) -> Served:
        """Write served.json, without the guards, which compare metrics."""
        from recsys.releases.changes import promoted
        from recsys.releases.store import change_served

        return change_served(self.store, lambda served: promoted(served, MODEL, release), why="a benchmark")

    def live(self) -> str:
        """The release that is to be live."""
        from recsys.releases.served import read_served

        served = read_served(self.store)
        assert served is not None
        return served.models[MODEL].live

    def other(self) -> str:
        """The release that is not to be live."""
        first, second = self.releases
        return second if self.live() == first else first


@contextlib.contextmanager
def stage(folder: Path, size: Size, *, bundles: Path) -> Iterator[Stage]:
    """Make bundles, push them, and fill a Redis, which may use every core, as the workers and the callers do."""
    from ranking import setting as rank_setting

    from recsys.bundle import read_manifest
    from recsys.releases.store import push_release

    store, names, table_bytes = folder / "store", [], 0
    for name in ("base", "tables"):
        bundle = variant(bundles, name, items=size.items, hashed=size.hashed)
        say(f"pushing {bundle.name}")
        names.append(push_release(store, ranking=bundle, retrieval=None).name)
        table_bytes = read_manifest(bundle).tables[TABLE].size_bytes
        if size.hashed:  # no other part has use for it, and it is large
            shutil.rmtree(bundle)
    with rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates) as setting:
        _use_all_cores(setting.redis_url)
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        requests = setting.requests(histories, size.requests)
        short = rank_setting.Request(requests[0].user, requests[0].candidates[:1])
        made = Stage(
            size=size,
            folder=folder,
            redis_url=setting.redis_url,
            store=store,
            bundles=bundles,
            releases=(names[0], names[1]),
            table_bytes=table_bytes,
            messages=rank_setting.messages(requests),
            probe=rank_setting.messages([short])[0],
        )
        made.promote(names[0])
        yield made


@dataclass(kw_only=True)
class Server:
    """A server of the store's releases.

    Attributes:
        workers: their process ids at the start.
    """

    process: subprocess.Popen[bytes]
    stage: Stage
    address: str
    ready: Path
    log: Path
    workers: list[int]
    phases: list[tuple[float, str]] = field(default_factory=list)
    """Times at which each phase was first seen, of all switches."""

    def replaced(self) -> int:
        """Workers that are not those of the start."""
        try:
            now = json.loads(self.ready.read_text())["workers"]
        except (OSError, ValueError):
            return len(self.workers)
        return len(set(self.workers) - set(now))

    def status(self) -> ServerStatus | None:
        """Read what it says of itself in the store; None: nothing yet."""
        from recsys.releases.status import read_statuses

        port = self.address.rpartition(":")[2]
        seen = [each.status for each in read_statuses(self.stage.store)[0] if each.status.server.endswith(f":{port}")]
        return seen[0] if seen else None

    def switch(self, release: str) -> str:
        """Make a release live and wait until every worker serves it; the reason if it is refused, empty if it is not.

        Raises:
            RuntimeError: the server has ended, or says nothing for too long.
        """
        self.phases.append((time.perf_counter(), "noticing"))
        served = self.stage.promote(release)
        deadline_s = time.monotonic() + _SWITCH_S
        while True:
            status = self.status()
            now_s = time.perf_counter()
            if status is not None and status.revision == served.revision:
                if status.models[MODEL].live == release:
                    self.phases.append((now_s, "switched"))
                    return ""
                if status.refused:
                    self.phases.append((now_s, "refused"))
                    return status.refused
                if status.phase != self.phases[-1][1] and status.phase != "serving":
                    self.phases.append((now_s, status.phase))
            self.check_alive(deadline_s)
            time.sleep(POLL_S)

    def watch_status(self, until_s: float) -> None:
        """Read the status as often as :meth:`switch` does, until ``time.perf_counter`` is so far."""
        while (left_s := until_s - time.perf_counter()) > 0:
            self.status()
            time.sleep(min(POLL_S, max(0.0, left_s)))
        self.check_alive(time.monotonic() + _SWITCH_S)

    def check_alive(self, deadline_s: float) -> None:
        """RuntimeError with the log's end if the server has ended, or ``time.monotonic`` is past the deadline."""
        if self.process.poll() is not None or time.monotonic() > deadline_s:
            state = "runs" if self.process.poll() is None else f"ended with code {self.process.poll()}"
            raise RuntimeError(f"the server {state}; its status: {self.status()}; log:\n{self.log.read_text()[-3000:]}")


@contextlib.contextmanager
def server(stage: Stage, name: str, *, group: Path | None = None, **variables: str) -> Iterator[Server]:
    """A server of two workers that follows the store; with ``group`` it runs in that control group."""
    import sys

    from harness import serving_parts

    ready, log = stage.folder / f"{name}.json", stage.folder / f"{name}.log"
    command = [sys.executable, "-m", "recsys.cli", "serve", "--releases", str(stage.store), "--port", "0"]
    command += ["--redis-url", stage.redis_url, "--workers", str(WORKERS), "--ready-file", str(ready)]
    if group is not None:  # the shell moves itself before it becomes the server
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
    settings = {
        "RECSYS_RELEASE_WATCH_S": "0",  # on a noisy machine it might go back by itself
        "RECSYS_RELEASE_REPLAY": str(stage.size.replay),
    }
    with serving_parts.running(command, log, **settings, **variables) as process:
        deadline_s = time.monotonic() + _START_S
        while not ready.exists():
            serving_parts.check_alive(process, log, deadline_s)
            time.sleep(0.01)
        facts: dict[str, Any] = json.loads(ready.read_text())
        workers = facts["workers"]
        assert len(workers) == WORKERS, facts
        yield Server(process=process, stage=stage, address=facts["address"], ready=ready, log=log, workers=workers)
    if process.returncode != 0:
        say(f"the server {name} ended with code {process.returncode}; the end of its log:\n{log.read_text()[-1500:]}")


def _use_all_cores(redis_url: str) -> None:
    """Let a Redis that was pinned run anywhere: one of the two workers would share its core with it."""
    import redis

    if not hasattr(os, "sched_setaffinity"):
        return
    with redis.Redis.from_url(redis_url) as client:
        facts: dict[str, Any] = client.info("server")  # type: ignore[assignment]
    for thread in Path(f"/proc/{facts['process_id']}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores())
