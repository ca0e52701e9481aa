"""Progress of long work on a terminal; plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from recsys.training.reports import TrainingProgress
    from recsys.training.retrieval.loop import RetrievalProgress

_SMOOTHING = 0.02
_LINES = 5
_REPORT_EVERY_S = 5.0


@contextmanager
def progress_bar(console: Console, label: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that the yielded function sets to an absolute count."""
    with _columns(console, "") as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[TrainingProgress | RetrievalProgress], None]]:
    """A bar with samples/s, the time left and a running mean of the loss; validation metrics as lines above it."""
    loss = 0.0
    with _columns(console, "{task.fields[note]}") as bar:
        task = bar.add_task("training", total=None, note="")

        def report(progress: TrainingProgress | RetrievalProgress) -> None:
            nonlocal loss
            if progress.validation is not None:
                console.print(f"{_when(progress)}: validation {progress.validation}", highlight=False)
                return
            loss = progress.loss if not loss else loss + _SMOOTHING * (progress.loss - loss)
            note = f"loss {loss:.4f}  {progress.samples_per_s:,.0f} samples/s"
            bar.update(task, completed=progress.step, total=progress.steps, note=note)
            every = max(1, progress.steps // _LINES)
            if not console.is_terminal and progress.step % every == 0:
                left = str(timedelta(seconds=round(progress.eta_s)))
                console.print(
                    f"step {progress.step:,} of {progress.steps:,}: {note}  {left} left",
                    highlight=False,
                )

        yield report


class BatchProgress:
    """Says now and then how far work in batches is, and when it is broken off, that it can be run again.

    Args:
        console: where to say it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = time.monotonic() + (1.0 if console.is_terminal else _REPORT_EVERY_S)
        self._summary: Callable[[], str] | None = None

    def batch_done(self, summary: Callable[[], str], left: Callable[[], str] = str) -> None:
        """Call after each batch. ``summary``: of what was done; ``left``: what is added about the rest."""
        self._summary = summary
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _REPORT_EVERY_S
            self._say(summary() + left())

    def broken_off(self, error: BaseException) -> None:
        """Say what was done, and that the rest can be done later."""
        if self._summary is not None or isinstance(error, KeyboardInterrupt):
            after = "" if self._summary is None else f" after {self._summary()}"
            self._say(f"broken off{after}; run it again to go on")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def _when(progress: TrainingProgress | RetrievalProgress) -> str:
    """The epochs that are complete; within one, the step."""
    per_epoch = progress.steps // progress.epochs
    return f"step {progress.step:,}" if progress.step % per_epoch else f"epoch {progress.epoch}"


def _columns(console: Console, note: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn(note),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
