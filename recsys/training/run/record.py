"""Record of a finished run for the tables of results: what ran, from which code, where, how long, how well.

``record.json`` in the run's folder. The code is named when the run begins, because a long run outlives the working
tree it was started from::

    start = begin_record(recipe=config.recipe, overrides=overrides, seed=config.train.seed)
    ...
    write_record(run_dir, start, train_s=412.0, samples_per_s=14_290.0, epochs=2, metrics={"test": {"auc": 0.81}})
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from recsys import __version__
from recsys.errors import ConfigError, DataFileError
from recsys.files import write_atomically

RECORD_FILE = "record.json"
_PACKAGES = ("torch", "fbgemm-gpu-cpu", "fbgemm-gpu", "torchrec", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that a run was trained on.

    ``cores`` are those that the process may use; ``threads`` those that torch used; ``gpu`` None: it used none.
    """

    cpu: str
    cores: int
    threads: int
    memory_gib: float
    gpu: str | None

    def __str__(self) -> str:
        host = f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB"
        return host if self.gpu is None else f"{self.gpu}, {host}"


@dataclass(frozen=True, kw_only=True)
class RecordStart:
    """Facts of a run before its first step; :func:`begin_record` makes one."""

    recipe: str
    overrides: tuple[str, ...]
    command: str
    seed: int
    commit: str | None
    changed: bool
    started_at: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        recipe, overrides, command, seed: what was asked for. ``command`` is the process's, without its folder.
        commit: of the code; None: nothing says it.
        changed: whether tracked files differed from the commit.
        started_at: ISO 8601, UTC.
        machine, versions: where it ran, package -> version.
        train_s: seconds of training, evaluation left out.
        samples_per_s: over the training steps; None if they were all done before the run was resumed.
        peak_memory_mib: largest resident set of the process, its data included.
        epochs: passes that were trained.
        best_epoch: whose weights were kept (from 1); None: the last, nothing was chosen.
        metrics: split -> name -> value; None: the metric has no value there.
        baselines: split -> ``popularity`` and ``chance`` -> name -> value.
        notes: what the run said of itself: settings that did not do what they are for.
    """

    recipe: str
    overrides: tuple[str, ...]
    command: str
    seed: int
    commit: str | None
    changed: bool
    started_at: str
    machine: Machine
    versions: Mapping[str, str]
    train_s: float
    samples_per_s: float | None
    peak_memory_mib: float
    epochs: int
    best_epoch: int | None
    metrics: Mapping[str, Mapping[str, float | int | None]]
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def begin_record(*, recipe: str, overrides: Sequence[str] = (), seed: int, command: str | None = None) -> RecordStart:
    """Name what is about to run; call it before the first step.

    Args:
        recipe: name of the recipe.
        overrides: the changes to it, as given on the command line.
        seed: of the run.
        command: how to repeat the run. Default: this process's command line.
    """
    commit, changed = code_version()
    return RecordStart(
        recipe=recipe,
        overrides=tuple(overrides),
        command=command or _own_command(),
        seed=seed,
        commit=commit,
        changed=changed,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_record(
    run_dir: Path,
    start: RecordStart,
    *,
    train_s: float,
    samples_per_s: float | None,
    epochs: int,
    best_epoch: int | None = None,
    metrics: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
    notes: Sequence[str] = (),
    device: torch.device | None = None,
) -> RunRecord:
    """Write ``record.json``; call it when the run's metrics are known. A metric that is NaN is written as null.

    Args:
        run_dir: the run's folder, which exists.
        start: what :func:`begin_record` returned.
        train_s, samples_per_s, epochs, best_epoch, metrics, baselines, notes: as in :class:`RunRecord`.
        device: the run's, if it is not the CPU.

    Raises:
        ConfigError: the folder cannot be written.
    """
    record = RunRecord(
        **dataclasses.asdict(start),
        machine=machine(device),
        versions=versions(),
        train_s=round(train_s, 2),
        samples_per_s=round(samples_per_s, 1) if samples_per_s and samples_per_s > 0 else None,
        peak_memory_mib=peak_memory_mib(),
        epochs=epochs,
        best_epoch=best_epoch,
        metrics={split: {name: _value(v) for name, v in values.items()} for split, values in metrics.items()},
        baselines={
            split: {of: {name: _value(v) for name, v in values.items()} for of, values in found.items()}
            for split, found in (baselines or {}).items()
        },
        notes=tuple(notes),
    )
    write_atomically(run_dir / RECORD_FILE, to_json(record).encode())
    return record


def read_record(path: Path, *, also: Sequence[str] = ()) -> RunRecord:
    """The record of a run's folder, or that in a file.

    Args:
        path: the folder, or the file.
        also: what the file holds beside it.

    Raises:
        DataFileError: there is none, or it is not a record.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text())
        for name in also:
            values.pop(name)
        values["machine"] = Machine(**values["machine"])
        values["overrides"] = tuple(values["overrides"])
        values["notes"] = tuple(values.get("notes", ()))
        record = RunRecord(**values)
    except FileNotFoundError:
        raise DataFileError(f"{file} is missing; a finished `recsys train` writes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{file}: not the record of a run: {error}") from error
    return record


def to_json(record: RunRecord) -> str:
    """Indented JSON that :func:`read_record` reads."""
    return json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False) + "\n"


def machine(device: torch.device | None = None) -> Machine:
    """The machine of this process, with the GPU if ``device`` is one."""
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    size_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=_cpu_model(),
        cores=cores,
        threads=torch.get_num_threads(),
        memory_gib=round(size_bytes / 2**30, 1),
        gpu=gpu,
    )


def versions() -> dict[str, str]:
    """Versions of this package, Python and the packages that a run's numbers depend on."""
    found = {"recsys": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> float:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


COMMIT = "RECSYS_COMMIT"
"""Variable with the commit of an installed package, which no repository tracks; images set it."""


def code_version() -> tuple[str | None, bool]:
    """Commit of this package, and whether files differ from it: of the repository that tracks it, else RECSYS_COMMIT.

    ``(None, False)``: nothing says it.

    Raises:
        ConfigError: no repository tracks the package, and RECSYS_COMMIT is no commit.
    """
    tracked = _tracked_version()
    given = os.environ.get(COMMIT, "")
    if tracked is not None or not given:
        return tracked or (None, False)
    if not re.fullmatch(r"[0-9a-f]{7,64}", given):
        raise ConfigError(f"{COMMIT} is {given!r}; allowed: 7 to 64 hex digits, or nothing")
    return given, False


def run_date(run_dir: Path) -> str:
    """When a run began, RFC 3339, which all bundles made of it have as theirs; empty: it has no record yet.

    Raises:
        DataFileError: the file is not a record.
    """
    return read_record(run_dir).started_at if (run_dir / RECORD_FILE).exists() else ""


@functools.cache
def _tracked_version() -> tuple[str | None, bool] | None:
    """The same of the repository; None: none tracks this package."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed below a repository of something else, the package is not that repository's.
    if git("ls-files", "--error-unmatch", Path(__file__).with_name("__init__.py").name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit, commit is not None and git("status", "--porcelain", "--untracked-files=no") != ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _own_command() -> str:
    program, *arguments = sys.argv or ["python"]
    program = Path(program).name
    # `python -m recsys` is how the command is run where it is not installed.
    return shlex.join(["recsys" if program in ("__main__.py", "") else program, *arguments])


def _value(value: Any) -> float | int | None:
    if value is None:
        return None
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
