"""Profile of a training step, beside the time of its matrix products alone at this machine's rate.

The loop runs as it is. PyTorch's profiler gives the main thread's time by operator, ``FlopCounterMode`` the
multiplications and additions of all matrix products forward and backward; the rate is that of one large product.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say
from harness.turns import EnoughError
from peers.beside_fuxictr import CONTESTS, LIBRARIES, config_of
from peers.fuxictr_data import same_for_both

if TYPE_CHECKING:
    from recsys.data.samples.dataset import Dataset
    from recsys.training.config import RunConfig
    from recsys.training.reports import TrainingProgress

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "addmv", "mv"),
    "tables": ("fbgemm", "split_embedding", "splitlookup", "bounds_check", "permute_", "asynchronous_complete"),
    "gathers and sums of rows": ("embedding_bag", "index", "gather", "scatter", "embedding", "segment", "repeat"),
    "optimiser": ("_fused_adam", "adam", "_foreach", "clip_grad"),
}
"""Kind -> how the names of its operators begin, behind the namespace."""

_WARM, _TIMED = 5, 20


def step_profiles(options: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """One line for each of the models that are compared with FuxiCTR."""
    import torch
    from harness.log_data import load

    from recsys.models.registry import RANKING_MODELS

    loaded = load(options.size, options.data, folder)
    batch_size = 128 if options.size == "tiny" else 1024
    rate = matmul_rate()
    on = machine(LIBRARIES, data=loaded.raw.source, threads=torch.get_num_threads(), batch_size=batch_size)
    for contest in CONTESTS:
        if contest.model not in RANKING_MODELS:
            continue
        name = contest.figure.removeprefix("train.").removesuffix("_vs_fuxictr")
        dataset = same_for_both(loaded.dataset, recent=contest.recent)
        config = config_of(contest, batch_size=batch_size)
        found = profile(config, dataset, folder / f"profile_{name}")
        bound_ms = 1e3 * found["flops"] / rate
        say(f"{name}: {found['step_ms']:.1f} ms a step, {bound_ms:.1f} ms of products at {rate / 1e9:.0f} Gflop/s")
        for kind, ms in found["kinds_ms"].items():
            say(f"    {ms:8.1f} ms  {kind}")
        for operator, ms in found["operators_ms"].items():
            say(f"        {ms:8.2f} ms  {operator}")
        yield line(
            f"train.{name}_step_over_matmul",
            found["step_ms"] / bound_ms,
            "ratio",
            higher_is_better=False,
            compared_with="the step's matrix products, forward and backward, at the rate of one large product",
            step_ms=rounded(found["step_ms"]),
            matmul_ms=rounded(bound_ms),
            ms_by_kind={kind: rounded(ms) for kind, ms in found["kinds_ms"].items()},
            on=on,
        )


def matmul_rate() -> float:
    """Floating-point operations a second of a product of two 1,024 x 1,024 matrices, with the threads there are."""
    import torch

    one = torch.randn(1024, 1024)
    rates = []
    for _ in range(8):
        begun_s = time.perf_counter()
        one @ one
        rates.append(2 * 1024**3 / (time.perf_counter() - begun_s))
    return max(rates)


def profile(config: RunConfig, dataset: Dataset, run_dir: Path) -> dict[str, Any]:
    """Milliseconds and floating-point operations of a step of the loop."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler
    from torch.utils.flop_counter import FlopCounterMode

    from recsys.training.loop import train

    counter = FlopCounterMode(display=False)
    watched = profiler(activities=[ProfilerActivity.CPU])
    begun_s = step_ms = 0.0

    def after_step(progress: TrainingProgress) -> None:
        nonlocal begun_s, step_ms
        if progress.step == _WARM:
            counter.__enter__()
        elif progress.step == _WARM + 1:
            counter.__exit__(None, None, None)
        elif progress.step == 2 * _WARM:
            begun_s = time.perf_counter()
        elif progress.step == 2 * _WARM + _TIMED:
            step_ms = 1e3 * (time.perf_counter() - begun_s) / _TIMED
            watched.__enter__()
        elif progress.step == 2 * _WARM + 2 * _TIMED:
            watched.__exit__(None, None, None)
            raise EnoughError

    try:
        train(config, dataset, run_dir, report=after_step)
    except EnoughError:
        pass
    operators = {e.key: e.self_cpu_time_total / 1e3 / _TIMED for e in watched.key_averages()}
    kinds = dict.fromkeys((*KINDS, "other operators"), 0.0)
    for operator, ms in operators.items():
        kinds[kind_of(operator)] += ms
    kinds["outside operators (Python, waiting for data)"] = max(0.0, step_ms - sum(operators.values()))
    largest = sorted(operators.items(), key=lambda pair: -pair[1])[:12]
    return {
        "step_ms": step_ms, "flops": counter.get_total_flops(), "kinds_ms": kinds, "operators_ms": dict(largest)
    }  # fmt: skip


def kind_of(operator: str) -> str:
    """Name the kind (``KINDS``) of an operator, or "other operators"."""
    name = operator.rpartition("::")[2].lower()
    whole = operator.lower()
    for kind, beginnings in KINDS.items():
        if any(name.startswith(b) if kind != "tables" else b in whole for b in beginnings):
            return kind
    return "other operators"
