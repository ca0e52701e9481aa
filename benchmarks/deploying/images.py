"""The serving image, built from its Dockerfile by debootstrap, umoci and runc: its size, and its cold start.

The start is that of ``runc run`` as user 10001, with a read-only root and a memory limit, of the demo's bundle whose
files are in the page cache, beside a Redis that runs; SERVING is what a probe of Kubernetes gets on the health port.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from harness.common import Line, free_port, line, machine, say, spread

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

LIBRARIES = ("onnxruntime", "grpcio", "numpy")
MOST_MB = 250.0
MEMORY_BYTES = 512 << 20
TARGET_S = 3.0
_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Repetitions; ``log`` names the size of the data that the bundle is of."""

    starts: int
    log: str


SIZES = {
    "full": Size(starts=15, log="full"),
    "quick": Size(starts=3, log="tiny"),
    "tiny": Size(starts=1, log="tiny"),
}


def images(folder: Path, size: Size) -> Iterator[Line]:
    """``deploy.serve_mb`` and ``deploy.cold_start_s``; none where there is no runc, or no root.

    ``folder / "image"``: the image, if it is built already.
    """
    from harness import serving_parts as parts
    from harness.log_data import load
    from images.build import build
    from images.container import missing

    if reason := missing():
        say(f"no figures of images: {reason}")
        return
    bundle = (folder / "image").resolve() / "bundle"  # runc takes no link
    if not (folder / "image").exists():
        say("building the serving image: the first time debootstrap and pip fetch what it is made of")
        (folder / "image").mkdir()
        build("serve", folder / "image")
    labels = json.loads((bundle / "image.json").read_text())["labels"]
    on = machine(LIBRARIES, memory_limit_mib=MEMORY_BYTES >> 20, **asdict(size))
    (packages,) = (bundle / "rootfs" / "opt" / "recsys").glob("lib/python3*/site-packages")
    yield line(
        "deploy.serve_mb",
        sum(path.lstat().st_size for path in packages.rglob("*")) / 1e6,
        "MB",
        higher_is_better=False,
        target=MOST_MB,
        compared_with="the target: unpacked site-packages of recsys-serve, bytecode included",
        layer_mb=_layer_mb(folder / "image" / "image"),
        revision=labels["org.opencontainers.image.revision"],
        on=on,
    )
    served = parts.export(load(size.log, None, folder), folder / "bundle")
    with _redis(folder) as port:
        seconds = []
        for number in range(-1, size.starts):
            say(f"start {number + 1} of {size.starts}")
            took_s = _start_s(bundle, served, port)
            if number >= 0:  # the first one fills the page cache
                seconds.append(took_s)
    yield line(
        "deploy.cold_start_s",
        median(seconds),
        "s",
        higher_is_better=False,
        target=TARGET_S,
        compared_with="the target; cold_start.seconds is the same server without a container, to its first answer",
        spread=spread(seconds),
        on=on,
    )


def _start_s(bundle: Path, served: Path, redis_port: int) -> float:
    """Seconds from ``runc run`` to SERVING."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from images.container import Limits, Mount, start

    port, health = free_port(), free_port()
    environment = {
        "RECSYS_BUNDLE": "/bundle",
        "RECSYS_INSECURE": "1",
        "RECSYS_PORT": str(port),
        "RECSYS_HEALTH_PORT": str(health),
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
    }
    started_s = time.perf_counter()
    running = start(
        bundle,
        f"recsys-bench-{os.getpid()}-{port}",
        environment=environment,
        mounts=[Mount(source=served, target="/bundle"), Mount(target="/tmp")],
        limits=Limits(memory_bytes=MEMORY_BYTES),
    )
    try:
        while True:
            if running.process.poll() is not None or time.perf_counter() - started_s > _START_S:
                raise RuntimeError(f"the container did not serve: {running.process.communicate()}")
            # A look at the port costs 50 us; gRPC itself would try again only every 100 ms.
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", health)):
                    time.sleep(0.002)
                    continue
            with grpc.insecure_channel(f"127.0.0.1:{health}") as channel, contextlib.suppress(grpc.RpcError):
                said = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
                if said.status == health_pb2.HealthCheckResponse.SERVING:
                    return time.perf_counter() - started_s
    finally:
        running.end()


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """A Redis on a port, for the duration of a ``with`` block: containers do not reach a socket of the machine."""
    from harness import serving_parts as parts

    from recsys.feature_store.embedded.server import redis_binary

    port = free_port()
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with parts.running(command, folder / "redis.log") as process:
        deadline_s = time.monotonic() + _START_S
        while True:
            parts.check_alive(process, folder / "redis.log", deadline_s)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield port


def _layer_mb(image: Path) -> float:
    """Size of the image's last layer, as it is sent: what ours adds to the base."""
    said = subprocess.run(
        ["umoci", "stat", "--image", f"{image}:recsys", "--json"], capture_output=True, text=True, check=True
    ).stdout
    layers = [entry["layer"]["size"] for entry in json.loads(said)["history"] if entry.get("layer")]
    return round(layers[-1] / 1e6, 1)
