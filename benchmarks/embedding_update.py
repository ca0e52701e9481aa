"""Speed of row look-ups and updates: FBGEMM's fused kernels beside PyTorch's own embedding and optimisers.

A step looks up a batch of distinct random rows, and updates them for a given gradient. Ours is this package's path:
TorchRec's collection, FBGEMM's kernel, row-wise Adagrad in the backward pass; beside it the bare kernel. The others are
``nn.Embedding`` with Adam, as PyTorch code is usually written, and with ``sparse=True`` and ``SparseAdam``, which
updates the same rows only. Two sides take turns, and no third one is in memory then.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from torch import Tensor

    Step = Callable[[Tensor, Tensor], None]
    """Looks rows [N] up, and updates them for the gradient [N, D] of what was found."""

LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu", "numpy")
WIDTH = 64
RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class Size:
    """Tables, and how long to measure."""

    tables: tuple[tuple[str, int], ...]
    rounds: int
    steps: int
    batch: int = 10_000


SIZES = {
    "full": Size(tables=(("1M", 1_000_000), ("10M", 10_000_000)), rounds=7, steps=5),
    "quick": Size(tables=(("1M", 1_000_000),), rounds=3, steps=3),
    "tiny": Size(tables=(("20k", 20_000),), rounds=1, steps=1, batch=500),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import torch

    size = SIZES[options.size]
    on = machine(LIBRARIES, width=WIDTH, threads=torch.get_num_threads(), **asdict(size))
    peers = {"tbe": _tbe, "dense_adam": _dense_adam, "sparse_adam": _sparse_adam}
    for label, rows in size.tables:
        for name, build in peers.items():
            say(f"{rows:,} rows beside {name}")
            yield _compare(name, build, label, rows, size, on=on)
    if torch.cuda.is_available():
        for label, rows in size.tables:
            yield _on_gpu(label, rows, size, on=on)


def _compare(name: str, build: Callable[[int], Step], label: str, rows: int, size: Size, *, on: dict[str, Any]) -> Line:
    """Our steps/s over a peer's; both are built here, so that no third one takes memory."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sides = {"ours": _torchrec(rows), name: build(rows)}
    took_s: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, size.rounds):
        for side, step in sides.items():
            times = []
            for _ in range(size.steps):
                # Distinct rows without a permutation of the table: one from each of as many equal parts.
                part = rows // size.batch
                at = torch.arange(size.batch) * part + torch.randint(part, (size.batch,), generator=generator)
                grad_ND = torch.randn(size.batch, WIDTH, generator=generator)
                started_s = time.perf_counter()
                step(at, grad_ND)
                times.append(time.perf_counter() - started_s)
            if number >= 0:  # the first round warms up
                took_s[side].append(median(times))
    ratios = [peer / ours for ours, peer in zip(took_s["ours"], took_s[name], strict=True)]
    what = {
        "tbe": "FBGEMM's kernel without TorchRec",
        "dense_adam": "nn.Embedding and Adam, which passes over the whole table",
        "sparse_adam": "nn.Embedding(sparse=True) and SparseAdam",
    }
    return line(
        f"update.over_{name}_{label}",
        median(ratios),
        "ratio",
        higher_is_better=True,
        compared_with=what[name],
        spread=spread(ratios),
        ours_ms=round(1e3 * median(took_s["ours"]), 3),
        peer_ms=round(1e3 * median(took_s[name]), 3),
        on=on,
    )


def _torchrec(rows: int) -> Step:
    """One table of this package."""
    import torch
    from torch import nn
    from torchrec import KeyedJaggedTensor

    from recsys.embeddings.row_maps.hashing import hash_rows
    from recsys.embeddings.sharding.shard import fuse_optimizer, set_rate, shard
    from recsys.embeddings.tables import EmbeddingTables, TableSpec

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            spec = TableSpec(name="t", num_rows=rows, dim=WIDTH)
            self.tables = EmbeddingTables([spec], {"t": hash_rows("t", rows=rows)})

        def forward(self, batch: KeyedJaggedTensor) -> Tensor:
            found: Tensor = self.tables(batch)["t"]
            return found

    model = Model()
    fuse_optimizer(model.tables, name="rowwise_adagrad", learning_rate=RATE)
    wrapped = shard(model, table_names=["t"], device=torch.device("cpu"))
    set_rate(wrapped, RATE, step=0)

    def step(at: Tensor, grad_ND: Tensor) -> None:
        batch = KeyedJaggedTensor.from_lengths_sync(keys=["t.0"], values=at, lengths=torch.tensor([len(at)]))
        wrapped(batch).backward(grad_ND)

    return step


def _tbe(rows: int, device: str = "cpu") -> Step:
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    where = (EmbeddingLocation.HOST, ComputeDevice.CPU)
    if device == "cuda":
        where = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, WIDTH, *where)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE,
        pooling_mode=PoolingMode.NONE,
        device=torch.device(device),
    )

    def step(at: Tensor, grad_ND: Tensor) -> None:
        kernel(at, torch.arange(len(at) + 1, device=at.device)).backward(grad_ND)

    return step


def _dense_adam(rows: int) -> Step:
    import torch
    from torch import nn

    table = nn.Embedding(rows, WIDTH)
    optimizer = torch.optim.Adam(table.parameters(), lr=RATE, fused=True)

    def step(at: Tensor, grad_ND: Tensor) -> None:
        table(at).backward(grad_ND)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sparse_adam(rows: int) -> Step:
    import torch
    from torch import nn

    table = nn.Embedding(rows, WIDTH, sparse=True)
    optimizer = torch.optim.SparseAdam(list(table.parameters()), lr=RATE)

    def step(at: Tensor, grad_ND: Tensor) -> None:
        table(at).backward(grad_ND)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _on_gpu(label: str, rows: int, size: Size, *, on: dict[str, Any]) -> Line:
    """Bytes/s of the kernel's forward and backward pass beside those of a copy in GPU memory."""
    import torch

    step = _tbe(rows, "cuda")
    batch = 50 * size.batch  # a GPU needs more rows than a CPU to be busy
    at = torch.randint(rows, (batch,), device="cuda")
    grad_ND = torch.randn(batch, WIDTH, device="cuda")
    # Forward: rows read and written. Backward: gradients and rows read, rows written. State and numbers not counted.
    moved = 5 * 4 * batch * WIDTH
    source = torch.empty(moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates: dict[str, list[float]] = {"update": [], "copy": []}
    for number in range(-1, size.rounds):
        for name, work in (("update", lambda: step(at, grad_ND)), ("copy", lambda: target.copy_(source))):
            torch.cuda.synchronize()
            started_s = time.perf_counter()
            for _ in range(10):
                work()
            torch.cuda.synchronize()
            if number >= 0:
                rates[name].append(10 * moved / (time.perf_counter() - started_s) / 1e9)
    ratios = [ours / copy for ours, copy in zip(rates["update"], rates["copy"], strict=True)]
    return line(
        f"update.gpu_over_copy_{label}",
        median(ratios),
        "ratio",
        higher_is_better=True,
        compared_with="a copy within GPU memory, bytes read and written counted",
        spread=spread(ratios),
        update_gb_per_s=round(median(rates["update"]), 1),
        copy_gb_per_s=round(median(rates["copy"]), 1),
        gpu=torch.cuda.get_device_name(),
        on=on,
    )


if __name__ == "__main__":
    main("embedding_update", run, parser(__doc__))
