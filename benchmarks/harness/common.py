"""The command line of the benchmarks, the machine's description, and one JSON object per figure.

A line says what was measured (``figure``, ``value``, ``unit``, ``higher_is_better``), beside what
(``compared_with``) and where (``on``: the machine, the libraries, the sizes). A figure that has a target
also has ``target`` and ``met``: a missed target is a result, not a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

RESULTS = Path(__file__).parents[1] / "results"
REQUIRED = ("figure", "value", "unit", "higher_is_better", "compared_with", "on")

Line = dict[str, Any]


def parser(about: str) -> argparse.ArgumentParser:
    """The options of every benchmark; ``about`` is the benchmark's docstring."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = options.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="rougher figures, below 50 s")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help=argparse.SUPPRESS)
    options.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="folder or zip of MovieLens-1M; default: RECSYS_DATA_DIR, then ../shared/data, then a synthetic log",
    )
    options.set_defaults(size="full")
    return options


def main(name: str, run: Callable[[argparse.Namespace], Iterator[Line]], options: argparse.ArgumentParser) -> NoReturn:
    """Run a benchmark: its lines go to standard output and, of a full run, to ``results/<name>.jsonl``.

    A run of some parts (an option ``only`` that is given), or one that breaks down, replaces the lines of its figures.
    SIGTERM and Ctrl-C end it through every ``finally``, so nothing it started outlives it.
    """
    given = options.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT unless told otherwise
        signal.signal(number, signal.default_int_handler)
    lines = []
    try:
        with contextlib.closing(run(given)) as found:
            for line in found:
                emit(line)
                lines.append(line)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except Exception:
        if given.size == "full":
            _save(RESULTS / f"{name}.jsonl", lines, keep_others=True)
        raise
    if given.size == "full":
        _save(RESULTS / f"{name}.jsonl", lines, keep_others=bool(getattr(given, "only", None)))
    sys.exit(0)


def _save(file: Path, lines: Sequence[Line], *, keep_others: bool) -> None:
    file.parent.mkdir(exist_ok=True)
    measured = {line["figure"] for line in lines}
    kept = [json.loads(row) for row in file.read_text().splitlines()] if keep_others and file.exists() else []
    kept = [line for line in kept if line["figure"] not in measured]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *lines]))


def line(
    figure: str,
    value: float,
    unit: str,
    *,
    higher_is_better: bool,
    compared_with: str,
    on: Mapping[str, Any],
    target: float | None = None,
    **details: Any,
) -> Line:
    """One figure, rounded to four digits; ``details`` are further facts about it."""
    made: Line = {"figure": figure, "value": rounded(value), "unit": unit, "higher_is_better": higher_is_better}
    if target is not None:
        made |= {"target": target, "met": value >= target if higher_is_better else value <= target}
    return {**made, "compared_with": compared_with, **details, "on": dict(on)}


def emit(made: Mapping[str, Any]) -> None:
    """Print a line.

    Raises:
        ValueError: it lacks a key, its value is no finite number, or ``target`` stands without ``met``.
    """
    if missing := [key for key in REQUIRED if key not in made]:
        raise ValueError(f"figure {made.get('figure')!r}: no {', '.join(missing)}; a line has {', '.join(REQUIRED)}")
    value = made["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"figure {made['figure']!r}: value is {value!r}; allowed: finite numbers")
    if ("target" in made) != ("met" in made):
        raise ValueError(f"figure {made['figure']!r}: target and met go together")
    print(json.dumps(made), flush=True)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def spread(values: Sequence[float]) -> list[float]:
    """Smallest, and largest of repeated measurements: how noisy the machine was."""
    return [rounded(min(values)), rounded(max(values))]


def machine(libraries: Sequence[str], **sizes: Any) -> dict[str, Any]:
    """Machine on which a figure was taken, and its sizes."""
    return {
        "cpu": _cpu_model(),
        "cores": len(cores()),
        "memory_gib": rounded(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {library: version(library) for library in libraries},
        "sizes": sizes,
    }


def cores() -> list[int]:
    """The cores this process may use; where that cannot be asked, one without a number per core."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started in the block stay on one core (Linux; elsewhere they go where they like)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [row.partition(":")[2].strip() for row in text.splitlines() if row.startswith("model name")]
    return names[0] if names else platform.machine()
