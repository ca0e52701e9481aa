"""Progress of long work: a bar on a terminal; elsewhere a line after a few seconds, then rarely.

Without a terminal (a log file, a CI job, a pipe) a first line comes after ``_FIRST_S``, and each next one after twice
as long, up to ``_RAREST_S``: what is being done, how much of how much, the rate, the time left. A thread prints them,
so that they come also while one call takes minutes. The console is standard error's: results stay alone on standard
output.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from recsys.training.reports import TrainingProgress
    from recsys.training.retrieval.loop import RetrievalProgress

_SMOOTHING = 0.02
_FIRST_S, _RAREST_S = 3.0, 60.0
_ON_TERMINAL_S = 5.0


class Work(Protocol):
    """Long work that is told about while it is done."""

    def stage(self, what: str, total: int | None = None) -> None:
        """Name what begins now; ``total``: how many of whatever it counts, if that is known."""
        ...

    def count(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how much of the stage is done; ``total`` as in :meth:`stage`, ``note``: words about the latest."""
        ...


@contextmanager
def progress(console: Console, what: str, *, total: int | None = None) -> Iterator[Work]:
    """Show progress for the duration of the block: of ``what``, and of the stages that the block names.

    Functions below take a callback: ``work.stage`` is one of ``(what)``, ``work.count`` one of ``(done)``.
    """
    if not console.is_terminal:
        lines = _Lines(console, what, total)
        try:
            yield lines
        finally:
            lines.end()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(TextColumn("{task.description}"), *columns, note, console=console, transient=True) as bar:
        yield _Bar(bar, what, total)


@contextmanager
def progress_bar(console: Console, label: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """:func:`progress` of one stage; the yielded function sets an absolute count."""
    with progress(console, label, total=total) as work:
        yield lambda done: work.count(done)


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[TrainingProgress | RetrievalProgress], None]]:
    """Progress with samples/s, the time left and a running mean of the loss; validation metrics as lines above it."""
    loss = 0.0
    with progress(console, "before the first step") as work:
        begun, stage = False, ""

        def report(progress: TrainingProgress | RetrievalProgress) -> None:
            nonlocal loss, begun, stage
            if progress.validation is not None:
                console.print(f"{_when(progress)}: validation {progress.validation}", highlight=False)
                return
            if of_stage := getattr(progress, "stage", ""):
                if of_stage != stage:
                    work.stage(of_stage, progress.steps or None)
                    stage = of_stage
                work.count(progress.step, progress.steps or None)
                return
            if not begun:
                work.stage("training, steps", progress.steps)
                begun = True
            loss = progress.loss if not loss else loss + _SMOOTHING * (progress.loss - loss)
            note = f"loss {loss:.4f}  {progress.samples_per_s:,.0f} samples/s"
            work.count(progress.step, progress.steps, note)
            if progress.step == progress.steps:
                work.stage("measuring")

        yield report


def by_name(work: Work) -> Callable[[str, int], None]:
    """A callback ``(what, done)`` of work whose stages are known by what they count."""
    at = ""

    def report(what: str, done: int) -> None:
        nonlocal at
        if what != at:
            work.stage(what)
            at = what
        work.count(done)

    return report


class BatchProgress:
    """Says now and then how far work in batches is, and when it is broken off, that it can be run again.

    Args:
        console: where to say it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._wait_s = 1.0 if console.is_terminal else _FIRST_S
        self._next_s = time.monotonic() + self._wait_s
        self._summary: Callable[[], str] | None = None

    def batch_done(self, summary: Callable[[], str], left: Callable[[], str] = str) -> None:
        """Call after each batch. ``summary``: of what was done; ``left``: what is added about the rest."""
        self._summary = summary
        if time.monotonic() >= self._next_s:
            self._wait_s = _ON_TERMINAL_S if self._console.is_terminal else _longer(self._wait_s)
            self._next_s = time.monotonic() + self._wait_s
            self._say(summary() + left())

    def broken_off(self, error: BaseException) -> None:
        """Say what was done, and that the rest can be done later."""
        if self._summary is not None or isinstance(error, KeyboardInterrupt):
            after = "" if self._summary is None else f" after {self._summary()}"
            self._say(f"broken off{after}; run it again to go on")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


class _Bar:
    def __init__(self, bar: Progress, what: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(escape(what), total=total, note="")

    def stage(self, what: str, total: int | None = None) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escape(what), total=total, note="")

    def count(self, done: int, total: int | None = None, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=escape(note))


class _Lines:
    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._console = console
        self._ended = threading.Event()
        self.stage(what, total)
        self._thread = threading.Thread(target=self._say_now_and_then, name="progress", daemon=True)
        self._thread.start()

    def stage(self, what: str, total: int | None = None) -> None:
        self._now = _Stage(what, total)

    def count(self, done: int, total: int | None = None, note: str = "") -> None:
        self._now.count(done, total, note)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _say_now_and_then(self) -> None:
        wait_s = _FIRST_S
        while not self._ended.wait(wait_s):
            self._console.print(self._now.line(), highlight=False, markup=False, soft_wrap=True)
            wait_s = _longer(wait_s)


class _Stage:
    """A stage and its counts. One thread counts, another reads: each value is replaced in one step."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._begun_s = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._latest: tuple[int, float] | None = None
        self._note = ""

    def count(self, done: int, total: int | None, note: str) -> None:
        self._latest = (done, time.monotonic())
        self._first = self._first or self._latest  # resumed work begins beyond 0
        self._total = self._total if total is None else total
        self._note = note

    def line(self) -> str:
        """The stage as a line."""
        if self._first is None or self._latest is None:
            return f"{self._what}: {_duration(time.monotonic() - self._begun_s)} so far"
        (first, first_s), (done, latest_s) = self._first, self._latest
        parts = [f"{self._what}: {done:,}" + ("" if self._total is None else f" of {self._total:,}")]
        if done > first and latest_s > first_s:
            rate = (done - first) / (latest_s - first_s)
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self._total is not None:
                parts.append(f"{_duration((self._total - done) / rate)} left")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    """A duration to read: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _longer(wait_s: float) -> float:
    return min(2 * wait_s, _RAREST_S)


def _when(progress: TrainingProgress | RetrievalProgress) -> str:
    """The epochs that are complete; within one, the step."""
    per_epoch = progress.steps // progress.epochs
    return f"step {progress.step:,}" if progress.step % per_epoch else f"epoch {progress.epoch}"
