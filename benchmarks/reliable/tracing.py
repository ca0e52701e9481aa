"""``security.cpu_share.tracing`` and ``.metrics``: CPU of a Rank call with these on over that without, less one.

Three servers of one bundle on the first core: with neither; with a metrics page; with a page, and one call in a hundred
traced and sent to a collector, which is on the last core, as are Redis and the callers. They take turns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from harness.common import Line, cores, line, machine, pinned, rounded, spread
from harness.wire import Wire
from harness.workers import Measure

from reliable.security import SIZES, Size, calls, cpu_us

__all__ = ["SIZES", "tracing_share"]

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf", "opentelemetry-sdk")
SHARE, TARGET = 0.01, 0.03
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_FLUSH_S = 1.5


def tracing_share(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure the figures; what is written goes to ``folder``, the bundle to ``bundles``."""
    from harness.serving_parts import server
    from harness.workers import worker
    from ranking import setting as rank_setting

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(bundles, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        with pinned(cores()[-1]):
            collector = stack.enter_context(worker(collects, str(folder / "collector")))
        endpoint = (folder / "collector").read_text()
        page = ("--metrics-port", "0")
        options = {
            "neither": (),
            "metrics": page,
            "traces": (*page, "--trace-share", str(SHARE), "--trace-endpoint", endpoint),
        }
        sides = {}
        for name, arguments in options.items():
            (folder / name).mkdir()
            with pinned(cores()[0]):
                pid, address = stack.enter_context(server(bundle, setting.redis_url, folder / name, *arguments))
            with pinned(cores()[-1]):
                sides[name] = stack.enter_context(worker(calls, address, pid, Wire(), sent, size.callers))
        taken = cpu_us(sides, rounds=size.rounds, round_s=size.round_s)
        time.sleep(_FLUSH_S)
        received_bytes = collector(0.0)
    assert received_bytes > 0 or size.round_s < 1, "no span came to the collector"
    on = machine(LIBRARIES, **asdict(size))
    for figure, (name, without), target in (
        ("tracing", ("traces", "metrics"), {"target": TARGET}),
        ("metrics", ("metrics", "neither"), {}),
    ):
        shares = [with_it / plain - 1 for plain, with_it in zip(taken[without], taken[name], strict=True)]
        more: dict[str, Any] = {"received_bytes": received_bytes, "share_traced": SHARE} if name == "traces" else {}
        yield line(
            f"security.cpu_share.{figure}", median(shares), "share", higher_is_better=False, **target,
            compared_with=f"CPU of the same calls with {without}, server and client together, in turns",
            spread=spread(shares), cpu_us={side: rounded(median(taken[side])) for side in (without, name)},
            **more, on=on,
        )  # fmt: skip


def collects(address_file: str) -> Measure:
    """A collector that takes what comes; gives the bytes so far."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    received = 0

    def export(message: bytes, context: Any) -> bytes:
        nonlocal received
        received += len(message)
        return b""

    service, method = _EXPORT[1:].split("/")
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Path(address_file).write_text(f"http://127.0.0.1:{port}")

    def measure(seconds: float) -> int:
        assert server is not None  # without a reference it would end
        return received

    return measure
