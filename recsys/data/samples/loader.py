"""BatchLoader: shuffled, sharded, resumable batches, built ahead in a background thread.

The order of the samples depends only on (seed, epoch). Step s takes the s-th run of
``batch_size * world_size`` samples of that order, and rank r every ``world_size``-th of the run
from the r-th on: ranks never overlap, always agree on the number of steps, and the samples of a
step do not depend on how many ranks share them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.errors import InvalidInputError
from recsys.features.encode import EncodedBatch

T = TypeVar("T")


class BatchLoader:
    """Iterates over the rest of the current epoch; the next ``iter`` begins the next epoch.

    Args:
        dataset: where samples are cut from.
        indices: which samples an epoch visits, each once; int64.
        batch_size: samples per batch and rank.
        seed: order of the samples, together with the epoch.
        shuffle: otherwise samples come in the order of ``indices``.
        drop_last: leave out the last, shorter step. Otherwise its batches are shorter, and
            empty on some ranks when fewer than ``world_size`` samples remain.
        rank, world_size: which share of every step this process reads.
        prefetch: batches built ahead in a thread; 0 builds them when they are asked for.

    Attributes:
        epoch: the epoch that ``iter`` continues or begins; counts from 0.

    Raises:
        InvalidInputError: an argument is out of range.

    ``state_dict`` taken after a batch was received resumes at the following one, however many
    were prefetched. One iteration at a time.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Int64Array,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is {batch_size}; allowed: 1 or more")
        if seed < 0:
            raise InvalidInputError(f"seed is {seed}; allowed: 0 or more")
        if prefetch < 0:
            raise InvalidInputError(f"prefetch is {prefetch}; allowed: 0 or more")
        if world_size < 1 or not 0 <= rank < world_size:
            raise InvalidInputError(f"rank {rank} of world_size {world_size}; allowed: 0 to world_size - 1")
        self._dataset = dataset
        self._indices = indices
        self._step_size = batch_size * world_size
        self._seed = seed
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._rank = rank
        self._world_size = world_size
        self._prefetch = prefetch
        self._next_batch = 0
        self._last: Int64Array = np.zeros(0, dtype=np.int64)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in a whole epoch; the same on every rank."""
        if self._drop_last:
            return len(self._indices) // self._step_size
        return -(-len(self._indices) // self._step_size)

    def __iter__(self) -> Iterator[EncodedBatch]:
        """Batches from the current position to the end of the epoch."""
        return self.batches(lambda batch: batch)

    def batches(self, convert: Callable[[EncodedBatch], T]) -> Iterator[T]:
        """The same batches, each converted where it is built: in the thread, if they are built ahead.

        Args:
            convert: called for one batch at a time; whatever it keeps between batches must be its own.
        """
        order = self._order()
        first = self._next_batch

        def samples_of(number: int) -> Int64Array:
            step = order[number * self._step_size : (number + 1) * self._step_size]
            return step[self._rank :: self._world_size]

        def build(number: int) -> T:
            return convert(make_batch(self._dataset, samples_of(number)))

        for number, batch in enumerate(_ahead(build, range(first, len(self)), self._prefetch), start=first):
            self._next_batch = number + 1
            self._last = samples_of(number)
            yield batch
        self.epoch += 1
        self._next_batch = 0

    def samples_of_last(self) -> Int64Array:
        """Sample indices of the batch that was received last, [B]; empty before the first."""
        return self._last

    def state_dict(self) -> dict[str, int]:
        """Position to continue from, and what it depends on; JSON values."""
        return {"epoch": self.epoch, "next_batch": self._next_batch, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            InvalidInputError: it was taken with other samples, batches or seed.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise InvalidInputError(
                    f"loader state was taken with {name} {state.get(name)}, this loader has {value}; "
                    "resume with the same setting or begin anew"
                )
        epoch, next_batch = state.get("epoch", -1), state.get("next_batch", -1)
        if epoch < 0 or not 0 <= next_batch <= len(self):
            raise InvalidInputError(f"loader state: epoch {epoch}, next_batch {next_batch} of {len(self)} batches")
        self.epoch, self._next_batch = epoch, next_batch

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self._seed,
            "samples": len(self._indices),
            "samples_per_step": self._step_size,
            "shuffle": int(self._shuffle),
        }

    def _order(self) -> Int64Array:
        if not self._shuffle:
            return self._indices
        return np.random.Generator(np.random.PCG64([self._seed, self.epoch])).permutation(self._indices)


def _ahead(build: Callable[[int], T], numbers: range, depth: int) -> Iterator[T]:
    """``build(n)`` for every n, up to ``depth`` of them ahead of the consumer."""
    if depth == 0:
        yield from map(build, numbers)
        return
    ready: queue.Queue[T | _Failed] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def produce() -> None:
        try:
            for number in numbers:
                if stop.is_set():
                    return
                ready.put(build(number))
        except BaseException as error:  # whatever it is, it belongs to the consumer
            ready.put(_Failed(error))

    thread = threading.Thread(target=produce, name="recsys-batches", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            got = ready.get()
            if isinstance(got, _Failed):
                raise got.error
            yield got
    finally:
        stop.set()
        # The thread puts at most once more after `stop`, and an emptied queue has room for that.
        while not ready.empty():
            ready.get_nowait()
        thread.join()


class _Failed:
    """An exception on its way from the thread to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
