"""Instructions of a Dockerfile, by stages. An instruction that none of ours has is refused, not left out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = (
    *("ARG", "COPY", "ENV", "RUN", "WORKDIR"),
    *("CMD", "ENTRYPOINT", "EXPOSE", "LABEL", "STOPSIGNAL", "USER"),
)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: its name, its options (``--from=build``), and the rest of it."""

    name: str
    options: Mapping[str, str]
    rest: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A FROM and what follows it: the base image, as written, the stage's name, and its instructions."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(file: Path) -> tuple[dict[str, str], list[Stage]]:
    """Defaults of the ARGs before the first FROM, and the stages.

    Raises:
        ValueError: an instruction is none of ``KNOWN``.
    """
    before: dict[str, str] = {}
    stages: list[Stage] = []
    for line in _lines(file.read_text()):
        name, _, rest = line.partition(" ")
        options = {}
        while match := re.match(r"--(\w+)=(\S+)\s+", rest):
            options[match[1]] = match[2]
            rest = rest[match.end() :]
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages.append(Stage(base=base.strip(), name=stage.strip()))
        elif name not in KNOWN or (not stages and name != "ARG"):
            raise ValueError(f"{file}: {name} is not carried out here; allowed: {', '.join(KNOWN)}")
        elif not stages:
            before[rest.partition("=")[0]] = rest.partition("=")[2]
        else:
            stages[-1].instructions.append(Instruction(name=name, options=options, rest=rest))
    return before, stages


def _lines(text: str) -> Iterator[str]:
    """Instructions without comments, each on a line."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    yield from filter(None, map(str.strip, re.sub(r"\\\n\s*", " ", kept).splitlines()))


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Put values in place of ``${NAME}``; what is not known is empty, as Docker has it."""
    return re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), text)


def pairs(text: str) -> dict[str, str]:
    """``a=1 b="2 3"`` of an ENV or a LABEL."""
    return dict(word.split("=", 1) for word in shlex.split(text))


def words(text: str) -> list[str]:
    """The exec form of a command.

    Raises:
        ValueError: it is the form that needs a shell.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f'{text!r} needs a shell; allowed: ["program", "argument"]')
    return [str(word) for word in found]
