"""The file of a day: what was decided, which steps were taken, how it ended. Replaced as a whole after each step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recsys.errors import DataFileError
from recsys.files import make_folder, parse_json, write_atomically

FORMAT_VERSION = 1
DAYS = "days"

Status = Literal["begun", "promoted", "ready", "nothing", "refused", "failed"]
"""``ready``: pushed, and not to be promoted by this program; ``nothing``: there was nothing to do."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A step that was taken.

    Attributes:
        key: hash of its inputs.
        inputs: the inputs, to say later what changed.
        output: its folder relative to that of the pipeline; empty: it has none.
        facts: what it found out.
        seconds: it took.
        at: when it ended, RFC 3339.
    """

    key: str
    inputs: Mapping[str, Any]
    output: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    at: str = ""


@dataclass(kw_only=True)
class DayState:
    """The content of ``days/NAME.json``.

    Attributes:
        day: its name.
        until_ms: its end.
        base: the release that it goes on from, decided once; empty: nothing was decided yet.
        steps: name -> the step, in the order in which they were taken.
        intent: a promotion that was about to be made: release, and the revision of ``served.json`` it was decided on.
        release: the one that was promoted.
        status: how the last run ended.
        reasons: why, in words.
        at: when, RFC 3339.
    """

    day: str
    until_ms: int
    base: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, StepRecord] = field(default_factory=dict)
    intent: dict[str, Any] = field(default_factory=dict)
    release: str = ""
    status: Status = "begun"
    reasons: list[str] = field(default_factory=list)
    at: str = ""


def state_file(folder: Path, day: str) -> Path:
    """Path of a day's file."""
    return folder / DAYS / f"{day}.json"


def read_state(file: Path) -> DayState | None:
    """Read a day's file; None if there is none.

    Raises:
        DataFileError: it is damaged.
        OSError: as files do.
    """
    try:
        values = parse_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataFileError(f"{file}: not the file of a day: {error}") from error
    try:
        if values.pop("format_version") != FORMAT_VERSION:
            raise ValueError("another format version")
        steps = {name: StepRecord(**of) for name, of in values.pop("steps").items()}
        state = DayState(**values, steps=steps)
        if state.day != file.stem or not isinstance(state.until_ms, int):
            raise ValueError(f"is of day {state.day!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataFileError(f"{file}: not the file of a day: {error}") from error
    return state


def write_state(folder: Path, state: DayState) -> None:
    """Replace a day's file; raises ConfigError or NoSpaceError."""
    file = state_file(folder, state.day)
    make_folder(file.parent)
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(state)}
    write_atomically(file, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def all_states(folder: Path) -> tuple[list[DayState], list[str]]:
    """The files of all days by their ends, and a line for each that is damaged."""
    found, damaged = [], []
    for file in _files(folder):
        try:
            state = read_state(file)
        except (DataFileError, OSError) as error:
            damaged.append(str(error))
            continue
        if state is not None:
            found.append(state)
    return sorted(found, key=lambda each: (each.until_ms, each.day)), damaged


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in (folder / DAYS).iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return
