"""Seconds from the start of a `recsys serve` process to its first answered Rank call.

Once with a Redis that already runs and holds histories, once with the private Redis that the server starts itself and
that loads the same data. The answer must not be degraded. Beside it, from the start of a process too:
importing ONNX Runtime and opening the same two graphs, and nothing else. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from harness.common import Line, free_port, line, machine, main, parser, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from harness.serving_parts import Request

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "uvloop")
TARGET_S = 1.5
_POLL_S = 0.002
_START_S = 60.0

BARE = """
import sys
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[1:]]
print("ready", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Repetitions, and contents of the store."""

    starts: int
    users: int
    candidates: int = 200


SIZES = {
    "full": Size(starts=15, users=6_040),
    "quick": Size(starts=4, users=500),
    "tiny": Size(starts=1, users=20, candidates=20),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    from harness import serving_parts as parts
    from harness.log_data import load

    from recsys.bundle import open_bundle
    from recsys.feature_store.embedded.server import EmbeddedRedis

    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        folder = Path(made)
        loaded = load(options.size, options.data, folder)
        bundle = options.bundle or parts.export(loaded, folder / "bundle")
        table = loaded.dataset.table
        users = parts.users_with_history(table, least=1, limit=size.users)
        request = parts.make_requests(table, users[:1], candidates=size.candidates)[0]
        own = folder / "own-redis"
        with EmbeddedRedis(own) as redis:
            parts.fill_store(redis.url, table, users)
        graphs = [str(open_bundle(bundle).graph_path(name)) for name in ("user", "rank")]
        seconds: dict[str, list[float]] = {"running": [], "embedded": [], "bare": []}
        with EmbeddedRedis(folder / "redis") as redis:
            events = parts.fill_store(redis.url, table, users)
            ways: dict[str, Callable[[], float]] = {
                "running": lambda: _first_answer_s(bundle, ["--redis-url", redis.url], request, folder),
                "embedded": lambda: _first_answer_s(bundle, ["--redis-dir", str(own)], request, folder),
                "bare": lambda: _bare_s(graphs),
            }
            for start in range(-1, size.starts if options.size != "tiny" else 0):
                say(f"start {start + 1} of {size.starts}")
                for way, measure in ways.items():
                    took_s = measure()
                    if start >= 0 or options.size == "tiny":  # the first one fills the page cache
                        seconds[way].append(took_s)
    on = machine(LIBRARIES, data=loaded.raw.source, events=events, **asdict(size))
    bare = "cold_start.bare_ort_seconds: importing ONNX Runtime and opening the same graphs"
    for figure, way, target, compared_with in (
        ("cold_start.seconds", "running", TARGET_S, bare),
        ("cold_start.embedded_redis_seconds", "embedded", TARGET_S, bare),
        ("cold_start.bare_ort_seconds", "bare", None, "cold_start.seconds"),
    ):
        yield line(
            figure,
            median(seconds[way]),
            "s",
            higher_is_better=False,
            target=target,
            compared_with=compared_with,
            spread=spread(seconds[way]),
            on=on,
        )


def _first_answer_s(bundle: Path, arguments: list[str], request: Request, folder: Path) -> float:
    from harness import serving_parts as parts

    from recsys.client import Client

    port, log = free_port(), folder / "server.log"
    command = parts.serve_command(bundle, "--port", str(port), *arguments)
    started_s = time.perf_counter()
    with parts.running(command, log) as process:
        deadline_s = time.monotonic() + _START_S
        while not _listens(port):
            parts.check_alive(process, log, deadline_s)
            time.sleep(_POLL_S)
        with Client(f"127.0.0.1:{port}", timeout_s=_START_S) as client:
            while client.rank(user=request.user, candidates=request.candidates).degraded:
                parts.check_alive(process, log, deadline_s)
            return time.perf_counter() - started_s


def _listens(port: int) -> bool:
    """A look at the port costs 50 us; gRPC itself would try again only every 100 ms."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _bare_s(graphs: list[str]) -> float:
    started_s = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", BARE, *graphs], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took_s = time.perf_counter() - started_s
    assert said == b"ready\n", "ONNX Runtime did not open the graphs; its error is above"
    return took_s


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--bundle", type=Path, metavar="FOLDER", help="serve this bundle; default: a new one")
    main("cold_start", run, options)
