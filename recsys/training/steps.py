"""Steps of training from batches: one after another, or with TorchRec's pipeline on GPU.

The pipeline (``TrainPipelineSparseDist``) copies the next batch to the device and exchanges its ids between processes
while this one is computed. It reads two batches ahead, so each batch carries the loader's position after it: a
checkpoint holds the position of the batch that was trained, not of the one that was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.streamable import Pipelineable

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import rows_of_codes
from recsys.data.samples.loader import BatchLoader
from recsys.embeddings.tables import BatchConverter, TensorBatch
from recsys.features.encode import EncodedBatch


@dataclass
class TrainBatch(Pipelineable):  # type: ignore[misc]
    """A batch on its way to a step.

    Attributes:
        encoded, tensors: the batch before and after conversion.
        samples: the dataset's sample indices in it, [B].
        loader: the loader's state after it.
    """

    encoded: EncodedBatch
    tensors: TensorBatch
    samples: Int64Array
    loader: dict[str, int]

    @property
    def rows(self) -> KeyedJaggedTensor:
        """Keys that the tables look up."""
        return self.tensors.rows

    def to(self, device: torch.device, non_blocking: bool = False) -> TrainBatch:
        """The same batch on another device."""
        return replace(self, tensors=self.tensors.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until that stream is done with it."""
        for tensor in self.tensors.all_tensors():
            tensor.record_stream(stream)
        self.tensors.rows.record_stream(stream)


@dataclass(frozen=True)
class StepOutput:
    """Outputs of a step, for checks and reports; ``rows``: table -> vectors of the batch's distinct codes, [U, D]."""

    batch: TrainBatch
    loss: float
    rows: dict[str, Tensor]
    logits_B: Tensor
    factor: float


class Update(Protocol):
    """The optimiser that TorchRec's pipeline asks for."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def step(self) -> None:
        """Change the network by its gradients; the tables changed in the backward pass."""
        ...


Forward = Callable[[TrainBatch], tuple[Tensor, StepOutput]]


class Steps(Protocol):
    """Takes steps."""

    def run(self, batches: Iterator[TrainBatch]) -> Iterator[StepOutput]:
        """A step for each batch; yields after each."""
        ...

    def pause(self) -> None:
        """Before the model is used for something else, such as an evaluation; :meth:`run` goes on afterwards."""
        ...


class PlainSteps:
    """One batch after another."""

    def __init__(self, forward: Forward, update: Update, device: torch.device) -> None:
        self._forward, self._update, self._device = forward, update, device

    def run(self, batches: Iterator[TrainBatch]) -> Iterator[StepOutput]:
        """See :class:`Steps`."""
        for batch in batches:
            self._update.zero_grad()
            total, output = self._forward(batch.to(self._device))
            total.backward()  # type: ignore[no-untyped-call]
            self._update.step()
            yield output

    def pause(self) -> None:
        """See :class:`Steps`."""


class PipelinedSteps:
    """TorchRec's pipeline over the model's lookups; the rest of the model and the loss are ``forward``.

    ``is_last`` says after which batches comes a pause; the pipeline is then empty.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        forward: Forward,
        update: Update,
        device: torch.device,
        *,
        is_last: Callable[[TrainBatch], bool],
    ) -> None:
        self._is_last = is_last
        self._pipeline: Any = TrainPipelineSparseDist(
            _Lookups(model.module.tables.collections),
            update,
            device,
            custom_model_fwd=forward,
        )

    def run(self, batches: Iterator[TrainBatch]) -> Iterator[StepOutput]:
        """See :class:`Steps`."""
        took = True
        while took:
            took, stretch = False, self._stretch(batches)
            while True:
                try:
                    output: StepOutput = self._pipeline.progress(stretch)
                except StopIteration:
                    break
                took = True
                yield output
            self.pause()

    def _stretch(self, batches: Iterator[TrainBatch]) -> Iterator[TrainBatch]:
        """Up to the next pause. TorchRec would exchange a batch that waits in the pipeline once more after it."""
        for batch in batches:
            yield batch
            if self._is_last(batch):
                return

    def pause(self) -> None:
        """See :class:`Steps`."""
        self._pipeline.detach()


class _Lookups(nn.Module):
    """The model's sharded collections alone: what the pipeline must trace to find their inputs."""

    def __init__(self, collections: nn.ModuleDict) -> None:
        super().__init__()
        self.collections = collections

    def forward(self, batch: TrainBatch) -> list[Any]:
        return [collection(batch.rows) for collection in self.collections.values()]


def batches_of(loader: BatchLoader, dataset: Dataset, convert: BatchConverter) -> Iterator[TrainBatch]:
    """The rest of the loader's epoch, converted in its thread.

    Args:
        loader: of the mapped dataset.
        dataset: mapped.
        convert: of its own; it keeps arrays between batches.
    """

    def converted(encoded: EncodedBatch) -> tuple[EncodedBatch, TensorBatch]:
        return encoded, convert(encoded, rows_of_codes(dataset))

    for encoded, tensors in loader.batches(converted):
        yield TrainBatch(encoded, tensors, loader.samples_of_last(), loader.state_dict())
