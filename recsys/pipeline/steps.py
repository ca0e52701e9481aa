"""Steps: each is taken, or found done, by its key; its output is there whole or not at all.

A key is the hash of the step's inputs, files' content among them, and of this program's code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recsys
from recsys.bundle.verify import sha256_of
from recsys.errors import RecsysError
from recsys.files import make_folder, parse_json, sync, temporary_path, write_atomically, writing
from recsys.pipeline.state import DayState, StepRecord, all_states, write_state
from recsys.releases.lock import now

OUTPUTS = "outputs"
FACTS = "facts.json"
"""In an output: what its step found out, so that a day's file that was lost costs no work."""

PARTIAL = ".partial"
"""Ending of an output that a step which can go on has begun."""

_CODE = ("*.py", "*.lua", "*.so")

Make = Callable[[Path], Mapping[str, Any]]
"""Does a step's work in a folder, which is there and empty, or as a killed run left it; returns facts in JSON."""


class StopHere(RecsysError):
    """A dry run came to a step that would be taken: what follows depends on it."""


class Refused(RecsysError):
    """Something is against this day's model: nothing is promoted.

    Args:
        reasons: each in words.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(kw_only=True)
class Steps:
    """The steps of a day.

    Attributes:
        folder: of the pipeline.
        state: of the day.
        say: called with a line about each.
        dry: take no step: say what would be, and why.
        taken: names of those that this run took.
    """

    folder: Path
    state: DayState
    say: Callable[[str], None]
    dry: bool = False
    taken: list[str] = field(default_factory=list)

    def take(
        self, name: str, inputs: Mapping[str, Any], make: Make, *, output: bool = True, goes_on: bool = False
    ) -> StepRecord:
        """Take a step, if it was not taken with these inputs before.

        Args:
            name: of the step.
            inputs: JSON values of everything that it depends on, but for the code of this program.
            make: does the work.
            output: whether it leaves a folder.
            goes_on: whether it can go on in the folder of a run that was killed.

        Raises:
            StopHere: it would be taken, in a dry run.
            NoSpaceError: the disk is full.
            RecsysError, OSError: as ``make``.
        """
        given = json.loads(json.dumps({**inputs, "code": code_digest()}))  # as they are when they are read again
        key = digest({"step": name, **given})
        known = self.state.steps.get(name)
        place = self.folder / OUTPUTS / name / key
        if known is not None and known.key == key and (not output or place.is_dir()):
            self.say(f"{name}: done before")
            return known
        if output and (facts := _object_in(place / FACTS)) is not None:
            self.say(f"{name}: its output is there already")
            return self._record(name, StepRecord(key=key, inputs=given, output=self._relative(place), facts=facts))
        self.say(f"{name}: {'would run' if self.dry else 'running'}, {_why(known, given)}")
        if self.dry:
            raise StopHere(name)
        began_s = time.monotonic()
        facts = self._made(place, make, goes_on=goes_on) if output else dict(make(self.folder))
        record = StepRecord(
            key=key,
            inputs=given,
            output=self._relative(place) if output else "",
            facts=facts,
            seconds=round(time.monotonic() - began_s, 2),
            at=now(),
        )
        self.taken.append(name)
        return self._record(name, record)

    def path(self, record: StepRecord) -> Path:
        """Folder of a step's output."""
        return self.folder / record.output

    def save(self) -> None:
        """Write the day's file; a dry run writes nothing."""
        if not self.dry:
            write_state(self.folder, self.state)

    def _made(self, place: Path, make: Make, *, goes_on: bool) -> dict[str, Any]:
        make_folder(place.parent)
        work = place.with_name(place.name + PARTIAL) if goes_on else temporary_path(place)
        try:
            with writing(place):
                work.mkdir(exist_ok=goes_on)
                facts = dict(make(work))
                write_atomically(work / FACTS, json.dumps(facts, indent=1, allow_nan=False).encode() + b"\n")
                sync(work)
                os.rename(work, place)
                sync(place.parent)
        finally:
            if not goes_on:
                shutil.rmtree(work, ignore_errors=True)
        return facts

    def _record(self, name: str, record: StepRecord) -> StepRecord:
        self.state.steps[name] = record
        self.save()
        return record

    def _relative(self, place: Path) -> str:
        return place.relative_to(self.folder).as_posix()


def _object_in(file: Path) -> dict[str, Any] | None:
    """The JSON object that a file holds; None if it cannot be read."""
    try:
        values = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _why(known: StepRecord | None, given: Mapping[str, Any]) -> str:
    """Reason for which a step is taken: what its inputs have other than the last time."""
    if known is None:
        return "for the first time this day"
    differing = sorted(name for name in {*known.inputs, *given} if known.inputs.get(name) != given.get(name))
    return f"because of another {' and '.join(differing)}" if differing else "because its output is gone"


def prune_outputs(folder: Path, *, keep_days: int, served: Sequence[str]) -> None:
    """Delete outputs that nothing needs: but for those of the newest days, and what served releases were made of.

    Args:
        folder: of the pipeline, whose lock is held: what is half-written there is of a run that was killed.
        keep_days: number of days.
        served: names of releases.
    """
    days, damaged = all_states(folder)
    if damaged:
        return  # it is not known what those days need
    newest = days[-keep_days:]
    needed = {step.output for state in newest for step in state.steps.values()}
    needed |= {str(Path(state.base.get("run", "")).parent) for state in newest}
    made = [state.steps["push"] for state in days if "push" in state.steps]
    needed |= {str(Path(push.facts["base"]["run"]).parent) for push in made if push.facts["release"] in served}
    for place in (folder / OUTPUTS).glob("*/*"):
        if place.relative_to(folder).as_posix() not in needed:
            shutil.rmtree(place, ignore_errors=True)


def digest(values: Any) -> str:
    """16 hex digits of JSON values.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """16 hex digits of this package's source: another version, or a changed line, is other code."""
    folder = Path(recsys.__file__).parent
    found = hashlib.sha256()
    for file in sorted(path for pattern in _CODE for path in folder.rglob(pattern)):
        found.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


class FileDigests:
    """Hashes of files' content. A file whose inode, size and times are as before is not read again.

    Args:
        cache: where they are kept; a cache that cannot be read is made anew.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known = _object_in(cache) or {}
        self._used: dict[str, list[Any]] = {}

    def of(self, files: Iterable[Path]) -> list[str]:
        """A hash of each, sorted: neither names nor order matter to what is read.

        Raises:
            OSError: as files do.
        """
        return sorted(self._digest(file) for file in files)

    def save(self) -> None:
        """Keep what was hashed; a disk that is full costs the next run its time, and nothing else."""
        if self._used != self._known:
            try:
                write_atomically(self._cache, json.dumps(self._used).encode())
            except (OSError, RecsysError):
                return

    def _digest(self, file: Path) -> str:
        stat = file.stat()
        # The time of a change of the inode cannot be set back, as that of a write can
        about = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        name = str(file.absolute())
        known = self._known.get(name)
        if not isinstance(known, list) or known[:-1] != about:
            known = [*about, sha256_of(file)]
        self._used[name] = known
        return str(known[-1])
