"""A step whose loss or gradient is not finite: say where it came from, and keep the batch for a look at it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.embeddings.sharding.shard import table_shards
from recsys.errors import InvalidInputError
from recsys.files import write_atomically
from recsys.training.distributed.processes import world
from recsys.training.run.folder import CHECKPOINT
from recsys.training.steps import StepOutput, TrainBatch


def first_not_finite(output: StepOutput, net: nn.Module) -> str:
    """The first thing on the way from the inputs to the gradients that is not finite, and how much of it.

    Args:
        output: what the step looked at.
        net: its parameters, and their gradients where there are any.
    """
    parts = [
        # NaN is a missing value there.
        ("numeric feature {!r}", ((n, v[~v.isnan()]) for n, v in output.batch.tensors.numbers.items())),
        ("the rows of table {!r}", output.rows.items()),
        ("parameter {!r} of the network", net.named_parameters()),
        ("the logits{}", (("", output.logits_B),)),
        ("the gradient of {!r}", ((n, p.grad) for n, p in net.named_parameters() if p.grad is not None)),
    ]
    for what, values in parts:
        for name, tensor in values:
            if bad := int((~torch.isfinite(tensor)).sum()):
                return f"{what.format(name)} (in {bad:,} of {tensor.numel():,} numbers)"
    return "the loss itself: every input, row, parameter and logit of this process is finite"


def not_finite_in(model: DistributedModelParallel) -> str | None:
    """Name what of a model is not finite, of the tables this process's parts; None: all is well. One pass, no copy."""
    parts = [(f"the rows of table {part.table!r}", part.weights) for part in table_shards(model)]
    parts += [(f"parameter {name!r} of the network", value) for name, value in model.module.net.named_parameters()]
    for what, tensor in parts:
        if tensor.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach())):
            return what
    return None


def stop(run_dir: Path, step: int, batch: TrainBatch, what: str, where: str) -> NoReturn:
    """Keep the batch and end the run; its last checkpoint stays as it is.

    Args:
        run_dir: where to keep it.
        step: the number of the step, from 1.
        batch: the batch.
        what: was not finite.
        where: that began.

    Raises:
        InvalidInputError: always.
    """
    file = run_dir / ("bad_batch.npz" if world().size == 1 else f"bad_batch.{world().rank}.npz")
    encoded = batch.encoded
    content = io.BytesIO()
    columns: dict[str, np.ndarray] = {
        "sample": batch.samples,
        "label": encoded.labels,
        "history_offsets": encoded.history_offsets,
        **{f"user.{name}": column for name, column in encoded.user.items()},
        **{f"item.{name}": column for name, column in encoded.item.items()},
        **encoded.history,
    }
    np.savez(content, allow_pickle=False, **columns)
    write_atomically(file, content.getvalue())
    remedy = "there was no checkpoint yet: begin a new run, in another folder"
    if (run_dir / CHECKPOINT).exists():
        remedy = (
            "the last checkpoint is of before this step, and --resume would come to it again: go on in a new run with "
            "--warm-start"
        )
    raise InvalidInputError(
        f"step {step}: {what}; lower the learning rates. The first that is not finite: {where}. The batch is in {file} "
        f"(numpy.load; ids are codes, 'sample' counts the data set's samples); {remedy}"
    )
