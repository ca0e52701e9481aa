"""The ranker from end to end, through gRPC and Redis, on one server core.

The model is the reference model of ``harness/reference.py``. A real server process is pinned to the first core; its
Redis, with real histories, and the callers are on the last. A process on the server's core runs the same graphs on the
same inputs in ONNX Runtime and nothing else; the two take turns, and ratios are medians of the turns'. How busy both
cores were is in each line. Users have ``events`` events and an up-to-date state; candidates' features are in the
server's cache. ``rank.arithmetic_bound`` is what the model's matrix products allow at the speed of a large product on
the same core in the same turns.

Further parts: ``ranking/history.py`` (growth with the history), ``ranking/workers.py`` (memory and speed of several
workers), ``serving_peers.py`` (other servers, with ``--NAME-python``).
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import serving_peers
from harness.common import Line, cores, line, machine, main, parser, pinned, rounded, say, spread
from ranking.size import SIZES, Size

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from harness.slow_moments import SlowMoments
    from ranking.load import Timed
    from ranking.setting import Histories, Setting

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "uvloop", "protobuf")
COMPUTES = {"float32": "", "int8": ".int8"}
"""How the graphs compute -> what the figures' names end with."""

CANDIDATES_TARGET, ORT_TARGET, FLAT_TARGET, P99_TARGET, PEER_TARGET = 120_000, 0.85, 8.0, 4.0, 5.0
LOAD = 0.7


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    from ranking import history as rank_history
    from ranking import setting as rank_setting
    from ranking import workers as rank_workers

    size = SIZES[options.size]
    on = machine(LIBRARIES, **asdict(size))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        flat = _flat(setting.folder, size)
        per_s: dict[str, float] = {}
        for compute in COMPUTES:
            bundle = rank_setting.reference_bundle(folder, items=size.items, compute=compute)
            for made in _of_compute(setting, bundle, flat, histories, size, compute, on):
                yield made
                if made["figure"].startswith("rank.candidates_per_s_core"):
                    per_s[COMPUTES[compute]] = made["value"]
        yield from rank_history.lines(setting, size, on=on, full=options.size == "full")
        yield from rank_workers.lines(setting, histories, size, on=on)
        yield from _beside_peers(options, folder, per_s, on)


def _of_compute(
    setting: Setting,
    bundle: Path,
    flat: tuple[Path, list[dict[str, Any]]],
    histories: Histories,
    size: Size,
    compute: str,
    on: dict[str, Any],
) -> Iterator[Line]:
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    say(f"{compute}: {size.rounds} rounds of {size.round_s} s")
    suffix = COMPUTES[compute]
    requests = setting.requests(histories, size.requests)
    sent = rank_setting.messages(requests)
    bare_inputs = rank_setting.bare_requests(bundle, setting, histories, min(size.requests, 128))
    found = Turns()
    with contextlib.ExitStack() as stack:
        pid, address = stack.enter_context(rank_setting.pinned_server(setting, bundle))
        with pinned(cores()[0]):
            found.bare = stack.enter_context(worker(rank_load.bare, bundle, bare_inputs))
            found.product = stack.enter_context(worker(rank_load.product))
            found.flat = stack.enter_context(worker(rank_load.bare_flat, *flat))
        with pinned(cores()[-1]):
            found.closed = stack.enter_context(worker(rank_load.closed, address, sent, size.callers))
        rank_setting.check_answers(address, bundle, requests, bare_inputs, events=size.events)
        found.measure(size, pid)
        yield from _throughput(found, size, suffix, on)
        yield from _tails(setting, bundle, address, sent, bare_inputs, found, size, suffix, on)


class Turns:
    """Turns of server and bare runs, and what they gave."""

    closed: Callable[[float], Any]
    bare: Callable[[float], Any]
    product: Callable[[float], Any]
    flat: Callable[[float], Any]

    def __init__(self) -> None:
        self.calls_per_s: list[float] = []
        self.bare_s: list[float] = []
        self.flat_s: list[float] = []
        self.gflops: list[float] = []
        self.server_busy: list[float] = []
        self.client_core_idle: list[float] = []

    def measure(self, size: Size, pid: int) -> None:
        """Take turns."""
        import psutil

        server = psutil.Process(pid)
        self.closed(size.round_s)  # fills caches, and writes the states
        for _ in range(size.rounds):
            before, cpu = server.cpu_times(), psutil.cpu_times(percpu=True)
            taken = self.closed(size.round_s)
            after, cpu_after = server.cpu_times(), psutil.cpu_times(percpu=True)
            wall = sum(cpu_after[cores()[-1]]) - sum(cpu[cores()[-1]])
            self.calls_per_s.append(len(taken) / size.round_s)
            self.server_busy.append((after.user + after.system - before.user - before.system) / max(wall, 1e-9))
            self.client_core_idle.append((cpu_after[cores()[-1]].idle - cpu[cores()[-1]].idle) / max(wall, 1e-9))
            self.bare_s.append(median(self.bare(size.round_s / 2)))
            self.gflops.append(self.product(size.round_s / 4))
            self.flat_s.append(median(self.flat(size.round_s / 2)))


def _throughput(found: Turns, size: Size, suffix: str, on: dict[str, Any]) -> Iterator[Line]:
    from ranking.load import flops

    per_s = [size.candidates * calls for calls in found.calls_per_s]
    bound = [size.candidates / (flops(size.candidates) / (g * 1e9)) for g in found.gflops]
    busy = {
        "server_core_busy": rounded(median(found.server_busy)),
        "other_core_idle": rounded(median(found.client_core_idle)),
    }
    yield line(
        f"rank.candidates_per_s_core{suffix}", median(per_s), "candidates/s", higher_is_better=True,
        target=CANDIDATES_TARGET, compared_with="rank.arithmetic_bound", spread=spread(per_s), **busy, on=on,
    )  # fmt: skip
    yield line(
        f"rank.arithmetic_bound{suffix}", median(bound), "candidates/s", higher_is_better=True,
        compared_with="the float32 products of the two graphs at the speed of a product of 512 x 512 x 512, same core",
        gflops=rounded(median(found.gflops)), spread=spread(bound), on=on,
    )  # fmt: skip
    ratios = [calls * bare for calls, bare in zip(found.calls_per_s, found.bare_s, strict=True)]
    yield line(
        f"rank.grpc_over_ort{suffix}", median(ratios), "ratio", higher_is_better=True, target=ORT_TARGET,
        compared_with="bare ONNX Runtime, one thread, on the same graphs and inputs, on the server's core",
        spread=spread(ratios), bare_candidates_per_s=rounded(size.candidates / median(found.bare_s)), on=on,
    )  # fmt: skip
    ratios = [rate * flat / size.candidates for rate, flat in zip(per_s, found.flat_s, strict=True)]
    yield line(
        f"rank.over_flat{suffix}", median(ratios), "ratio", higher_is_better=True, target=FLAT_TARGET,
        compared_with="the same model as PyTorch exports it, inputs repeated per candidate, a history of 50 events "
        "for both blocks, in bare ONNX Runtime on the server's core",
        spread=spread(ratios), flat_candidates_per_s=rounded(size.candidates / median(found.flat_s)), on=on,
    )  # fmt: skip


def _tails(
    setting: Setting,
    bundle: Path,
    address: str,
    sent: list[bytes],
    bare_inputs: list[tuple[Any, Any]],
    found: Turns,
    size: Size,
    suffix: str,
    on: dict[str, Any],
) -> Iterator[Line]:
    """The p99 at 70 % load, beside that of the bare graphs at the same pace in the same minutes on the same core."""
    import numpy as np
    from harness.slow_moments import slow_moments
    from harness.workers import worker
    from ranking import load as rank_load

    rate = LOAD * median(found.calls_per_s)
    for poisson in (False, True):
        with contextlib.ExitStack() as stack:
            moments = stack.enter_context(slow_moments(core=cores()[0]))
            with pinned(cores()[-1]):
                paced = stack.enter_context(worker(rank_load.paced, address, sent, size.callers, rate, poisson))
            with pinned(cores()[0]):
                arguments = (bundle, bare_inputs, size.callers, rate, poisson)
                bare = stack.enter_context(worker(rank_load.bare_paced, *arguments))
            before, calls, after = bare(size.paced_s / 2), paced(size.paced_s), bare(size.paced_s / 2)
        of_bare = rank_load.Timed(*map(np.concatenate, zip(before, after, strict=True)))
        for made in _p99(calls, of_bare, moments, found, rate=rate, poisson=poisson):
            yield line(
                f"{made.pop('figure')}{suffix}", made.pop("value"), "ratio", higher_is_better=False, **made, on=on
            )


def _p99(
    calls: Timed, of_bare: Timed, moments: SlowMoments, found: Turns, *, rate: float, poisson: bool
) -> Iterator[dict[str, Any]]:
    import numpy as np

    way = "_poisson" if poisson else ""
    come = "at random moments (Poisson)" if poisson else "evenly, from eight connections"
    p50_s, p99_s, p999_s = (float(np.nanpercentile(calls.took_s, share)) for share in (50, 99, 99.9))
    bare_p99_s = float(np.percentile(of_bare.took_s, 99))
    quiet = [each.took_s[moments.quiet(each.due_s)] for each in (calls, of_bare)]
    facts = {
        "load": LOAD,
        "refused": int(np.isnan(calls.took_s).sum()),
        "calls_per_s": rounded(rate),
        "p50_ms": rounded(1e3 * p50_s),
        "p99_ms": rounded(1e3 * p99_s),
        "p999_ms": rounded(1e3 * p999_s),
    }
    yield {
        "figure": f"rank.p99_over_ort{way}",
        "value": p99_s / median(found.bare_s),
        "target": None if poisson else P99_TARGET,
        "compared_with": f"bare ONNX Runtime's time for one request; calls come {come}",
        "bare_ms": rounded(1e3 * median(found.bare_s)),
        **facts,
    }
    yield {
        "figure": f"rank.p99_over_bare_p99{way}",
        "value": p99_s / bare_p99_s,
        "compared_with": f"p99 of the bare graphs on that core at the same pace, before and after; calls come {come}",
        "bare_p99_ms": rounded(1e3 * bare_p99_s),
        "bare_p999_ms": rounded(1e3 * float(np.percentile(of_bare.took_s, 99.9))),
        "slow_share": rounded(moments.slow_share([(float(calls.due_s.min()), float(calls.due_s.max()))])),
        "without_slow_moments": {
            "value": rounded(float(np.nanpercentile(quiet[0], 99)) / float(np.percentile(quiet[1], 99))),
            "p99_ms": rounded(1e3 * float(np.nanpercentile(quiet[0], 99))),
            "bare_p99_ms": rounded(1e3 * float(np.percentile(quiet[1], 99))),
            "calls": len(quiet[0]),
        } if all(map(len, quiet)) else None,
        **facts,
    }  # fmt: skip


def _flat(folder: Path, size: Size) -> tuple[Path, list[dict[str, Any]]]:
    """The same model as PyTorch exports it, and requests for it."""
    from harness.flat_graph import export_flat
    from harness.reference import SHORT, reference_model

    trained = reference_model(items=size.items)
    graph = export_flat(trained, folder / "flat.onnx", repeated=True)
    shape = serving_peers.Size(
        rounds=1, round_s=1.0, requests=16, items=size.items, events=SHORT, candidates=size.candidates
    )
    inputs = serving_peers.flat_requests(trained, shape, repeated=True)
    return graph, serving_peers.one_by_one(inputs)


def _beside_peers(
    options: argparse.Namespace, folder: Path, per_s: dict[str, float], on: dict[str, Any]
) -> Iterator[Line]:
    pythons = serving_peers.pythons_of(options)
    if not pythons:
        return
    size = serving_peers.SIZES[options.size]
    rates = serving_peers.peer_candidates_per_s(pythons, folder, size=size)
    best = max((r for r in rates if not r.startswith("ort")), key=lambda name: median(rates[name].per_s))
    for suffix, ours in per_s.items():
        yield line(
            f"rank.vs_best_peer{suffix}", ours / median(rates[best].per_s), "ratio", higher_is_better=True,
            target=PEER_TARGET,
            compared_with="the best of the other servers on its best graph, whose history is a mean of 50 events",
            best=best, peers={name: rounded(median(r.per_s)) for name, r in rates.items()},
            versions=sorted({r.version for r in rates.values() if r.version}), on=on,
        )  # fmt: skip


if __name__ == "__main__":
    options = parser(__doc__ or "")
    serving_peers.add_options(options)
    main("rank", run, options)
