"""The processes of a run: who is who, exchanges between them, and how a failure of one ends all.

``torchrun`` starts the processes and says who they are. Whatever fails in one ends the others: at once if its
connection closed, else after a time limit.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import torch.distributed as dist

from recsys.embeddings.sharding.network import LOST_S
from recsys.embeddings.sharding.shard import TIMEOUT_S
from recsys.errors import ConfigError, RecsysError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int


def world() -> World:
    """This process's rank and the number of processes; 0 and 1 before a process group was started."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World(0, 1)


def is_first() -> bool:
    """True if this process may print; also before a process group was started."""
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
        found = re.search(r"remote=\[([^\]]+)\]|\[([0-9a-f.:]+)\]:\d+", str(error))
        where = f" at {found[1] or found[2]}" if found else ""
        raise RecsysError(
            f"process {world().rank} of {world().size}: another process of this run{where} ended, its host was cut off "
            f"for {LOST_S} s, or it did not answer for {TIMEOUT_S} s; its own message says why. Go on from the last "
            "checkpoint with --resume"
        ) from error


def end_process(code: int) -> NoReturn:
    """End a process of several, with everything printed, but without the interpreter's own end.

    A thread of gloo's may let go of the last exchange's tensors only then, and would abort the process (SIGABRT).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
