"""A step divided among processes, so that its loss and its gradients are those of one process.

A run of W processes with ``train.batch_size`` b is the run of one process with W b samples per step, up to the order
of sums:

- The loss is the mean over all samples of the step. Gradients are averaged over processes, so each multiplies its
  part by W; the last step's parts differ in size, and may be empty (:func:`share_of_loss`).
- DIN's regularisation pulls each distinct id of the *step* once, so one that c processes have counts 1 / c in each
  (:class:`HolderCounts`).
- Dice standardises over all samples of the step (``sync_normalization.py``).
- Dropout draws from a generator per process: with it, runs of other numbers of processes differ as runs of other
  seeds do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import ConfigError
from recsys.training.config import RunConfig
from recsys.training.distributed.processes import gather, world


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
