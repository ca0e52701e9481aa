"""Training in several processes: what they divide, what they exchange, and how they fail together.

``torchrun`` starts the processes and says who they are. Each reads its share of every step's samples; tables are spread
(``embeddings/sharding``), the network is the same everywhere. A run of W processes with ``train.batch_size`` b is
the run of one process with W b samples per step, up to the order of sums:

- The loss is the mean over all samples of the step. Gradients are averaged over processes, so each multiplies its
  part by W; the last step's parts differ in size, and may be empty (:func:`share_of_loss`).
- DIN's regularisation pulls each distinct id of the *step* once, so one that c processes have counts 1 / c in each
  (:class:`HolderCounts`).
- Dice standardises over all samples of the step (``sync_normalization.py``).
- Dropout draws from a generator per process: with it, runs of other numbers of processes differ as runs of other
  seeds do.

Whatever fails in one process ends the others: at once if its connection closed, else after a time limit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.embeddings.sharding.plan import PlannedTable
from recsys.embeddings.sharding.shard import TIMEOUT_S
from recsys.errors import ConfigError, RecsysError
from recsys.training.config import RunConfig

T = TypeVar("T")

_MIB = 1 << 20


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int


def world() -> World:
    """Who we are; alone before a process group was started."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World(0, 1)


def is_first() -> bool:
    """Whether this process may print; also before a process group was started."""
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        return world().rank == 0
    return os.environ.get("RANK", "0") == "0"


def check_alone(what: str) -> None:
    """Refuse to run in several processes; also before a process group was started.

    Args:
        what: cannot.

    Raises:
        ConfigError: torchrun started more than one.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
    if launched > 1:
        raise ConfigError(f"{what} runs in one process, but there are {launched}; start it without torchrun")


def gather(value: T) -> list[T]:
    """Every process's value, in order of rank."""
    if world().size == 1:
        return [value]
    values: list[Any] = [None] * world().size
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """The first process's value."""
    if world().size == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


@contextmanager
def together(doing: str) -> Iterator[None]:
    """Run a block in every process; if it fails in one, all raise, with that one's message.

    The block must not talk to other processes.
    """
    failure: RecsysError | OSError | None = None
    try:
        yield
    except (RecsysError, OSError) as error:
        failure = error
    failures = gather(failure)
    if failure is not None:
        raise failure
    for rank, other in enumerate(failures):
        if other is not None:
            raise RecsysError(f"{doing} failed in process {rank}: {other}")


def on_first(action: Callable[[], T]) -> T:
    """Have the first process do something, and give its answer, or its error, to all."""
    answer: Any = None
    failure: RecsysError | None = None
    if world().rank == 0:
        try:
            answer = action()
        except RecsysError as error:
            failure = error
    answer, failure = broadcast((answer, failure))
    if failure is not None:
        raise failure
    return cast(T, answer)


def first_before_others(action: Callable[[], T]) -> T:
    """Have the first process do something, then all others; if it fails in the first, all raise its error."""
    answer: list[T] = []
    on_first(lambda: answer.append(action()))
    return answer[0] if answer else action()


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say what a broken connection to another process means.

    Raises:
        RecsysError: another process ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if world().size == 1 or not any(sign in str(error) for sign in ("peer", "imed out", "NCCL", "onnection")):
            raise
        raise RecsysError(
            f"process {world().rank} of {world().size}: another process of this run ended, or did not answer for "
            f"{TIMEOUT_S} s; its own message says why. Go on from the last checkpoint with --resume"
        ) from error


def end_process(code: int) -> NoReturn:
    """End a process of several, with everything printed, but without the interpreter's own end.

    A thread of gloo's may let go of the last exchange's tensors only then, and would abort the process (SIGABRT).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def as_one_process(config: RunConfig, world_size: int) -> RunConfig:
    """The configuration with which one process does the same run, curves aside; what ``config.json`` holds."""
    tables = replace(config.tables, sharding="auto", shardings={}, uvm_cache=0.0)
    train = replace(config.train, batch_size=config.train.batch_size * world_size, tensorboard=False)
    return replace(config, tables=tables, train=train)


def check_samples_per_step(run_dir: Path, samples: int, config: RunConfig) -> None:
    """Refuse to resume a run with another number of samples per step than it began with.

    Args:
        run_dir: folder of the run.
        samples: per step, as it began.
        config: of this process.

    Raises:
        ConfigError: it is another.
    """
    began, size = samples, world().size
    if began == config.train.batch_size * size:
        return
    if began % size:
        advice = f"a number of processes that divides {began}"
    else:
        advice = f"train.batch_size={began // size}"
    raise ConfigError(
        f"{run_dir} takes {began} samples per step, {size} processes of train.batch_size "
        f"{config.train.batch_size} would take {config.train.batch_size * size}; resume with {advice}"
    )


def seed_process(seed: int) -> None:
    """A generator for dropout per process; one process keeps the one that it has."""
    if world().size > 1:
        mixed = np.random.SeedSequence([seed, world().rank]).generate_state(1, dtype=np.uint64)[0]
        torch.manual_seed(int(mixed))


def samples_in_step(samples: int, next_batch: int, batch_size: int) -> int:
    """Samples that all processes took together in the step before ``next_batch`` of an epoch."""
    per_step = batch_size * world().size
    return min(per_step, samples - (next_batch - 1) * per_step)


def share_of_loss(losses_B: Tensor, samples: int) -> Tensor:
    """This process's losses so that the average over processes is the mean over all ``samples`` of the step."""
    return losses_B.sum() / (samples / world().size)


def mean_loss(share: Tensor) -> float:
    """The mean over all samples of the step, from every process's :func:`share_of_loss`."""
    total = share.detach().clone()
    if world().size > 1:
        dist.all_reduce(total)
    return total.item() / world().size


class HolderCounts:
    """In how many processes each distinct id of a step is; one exchange of the ids per step, and no sort.

    Args:
        codes: table -> number of its codes.
    """

    def __init__(self, codes: Mapping[str, int], device: torch.device) -> None:
        starts = np.cumsum([0, *codes.values()])
        self._first = {table: int(start) for table, start in zip(codes, starts[:-1], strict=True)}
        self._counts = torch.zeros(int(starts[-1]), device=device) if world().size > 1 else torch.zeros(0)

    def weights(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W / c of each code of each table, c the processes that have it: over processes they average to 1.

        Empty for one process, where all are 1.

        Args:
            codes: table -> this process's distinct codes, [U], int64.
        """
        if world().size == 1:
            return {}
        mine = torch.cat([codes[table] + first for table, first in self._first.items()])
        lengths = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(world().size)]
        dist.all_gather(lengths, torch.tensor([len(mine)], device=mine.device))
        longest = max(int(length) for length in lengths)
        padded = [mine.new_zeros(longest) for _ in lengths]
        dist.all_gather(padded, torch.cat([mine, mine.new_zeros(longest - len(mine))]))
        everyone = [codes_of_one[: int(length)] for codes_of_one, length in zip(padded, lengths, strict=True)]
        for theirs in everyone:
            self._counts[theirs] += 1.0  # distinct within a process
        weights = world().size / self._counts[mine]
        for theirs in everyone:
            self._counts[theirs] = 0.0
        sizes = [len(codes[table]) for table in self._first]
        return dict(zip(self._first, torch.split(weights, sizes), strict=True))


def predict_together(predict: Callable[[Int64Array], Float32Array], indices: Int64Array) -> Float32Array:
    """Logits of samples, each process predicting its part; [M], the same in all.

    Args:
        predict: logits of some samples. Every process calls it with as many, because tables are looked up together.
        indices: of all samples, [M] with M at least 1.
    """
    rank, size = world().rank, world().size
    share = indices[rank::size]
    padded = np.concatenate([share, indices[: -(-len(indices) // size) - len(share)]])
    parts = gather(predict(padded)[: len(share)])
    merged = np.empty(len(indices), dtype=np.float32)
    for number, part in enumerate(parts):
        merged[number::size] = part
    return merged


def plan_table(planned: Sequence[PlannedTable]) -> Table:
    """A plan to print."""
    table = Table("table", box=None)
    for heading in ("rows", "width"):
        table.add_column(heading, justify="right")
    for heading in ("sharding", "ranks"):
        table.add_column(heading)
    for heading in ("MiB", "optimizer MiB"):
        table.add_column(heading, justify="right")
    for part in planned:
        cached = " (cached)" if part.kernel == "fused_uvm_caching" else ""
        cells = (part.table, f"{part.num_rows:,}", str(part.dim), part.sharding + cached, _ranges(part.ranks))
        table.add_row(*cells, f"{part.size_bytes / _MIB:,.2f}", f"{part.state_bytes / _MIB:,.2f}")
    return table


def _ranges(ranks: Sequence[int]) -> str:
    """0-3, or 0, 2."""
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))
