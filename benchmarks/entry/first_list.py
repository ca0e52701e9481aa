"""From a CSV to a ranked list: the commands that a newcomer types, `recsys init` and those it prints, through a shell.

The log is generated: users, movies, grades, times in seconds, a user's gender and a movie's genres in every row.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]

START_S, STEP_S = 1_600_000_000, 3_600
GENRES = ("drama", "comedy", "war", "noir", "western")
READY_S = 60
TARGET = 6
SIZES = {"tiny": (60, 30), "quick": (200, 50), "full": (1_000, 100)}
"""Size -> users, events of each."""


class Typed(NamedTuple):
    """A command, what it printed on standard output, and on standard error."""

    line: str
    out: str
    err: str


def first_list_lines(size: str, folder: Path) -> Iterator[Line]:
    """The figure ``way_in.first_list_lines``: it counts commands that were typed, and that led to a ranked list."""
    from harness import common

    users, each = SIZES[size]
    folder = folder / "first list"
    folder.mkdir()
    write_log(folder / "log.csv", users, each)
    started_s = time.perf_counter()
    looked = type_commands(["recsys init log.csv --name shop"], folder)
    common.say("first list: typing what init printed")
    typed = [*looked, *type_commands(printed_commands(looked[0].out), folder)]
    elapsed_s = time.perf_counter() - started_s
    if len(typed[-1].out.splitlines()) < 4 or "not degraded" not in typed[-1].err:
        raise RuntimeError(f"{typed[-1].line}: no list of three items: {typed[-1].out}{typed[-1].err}")
    yield common.line(
        "way_in.first_list_lines", len(typed), "commands", higher_is_better=False, target=TARGET,
        compared_with="none: it is counted", seconds=common.rounded(elapsed_s),
        on=common.machine(["torch", "torchrec", "onnxruntime"], users=users, events=users * each),
    )  # fmt: skip


def write_log(path: Path, users: int, each: int) -> None:
    """Write ``users`` x ``each`` rows, which begin with the movies 10, 20 and 30."""
    draw = random.Random(0)
    genres = {10 * n: "|".join(draw.sample(GENRES, draw.randint(1, 3))) for n in range(1, 41)}
    likes = {user: draw.choice(GENRES) for user in range(1, users + 1)}
    with path.open("w") as stream:
        stream.write("userId,movieId,rating,timestamp,gender,genres\n")
        for n in range(each):
            for user, liked in likes.items():
                movie = 10 * user if n == 0 and user <= 3 else 10 * draw.randint(1, 40)
                rating = min(5, draw.randint(1, 4) + 2 * (liked in genres[movie]))
                moment = START_S + STEP_S * n + user
                stream.write(f"{user},{movie},{rating},{moment},{'FM'[user % 2]},{genres[movie]}\n")


def printed_commands(text: str) -> list[str]:
    """The commands among what `recsys init` prints."""
    return [line.strip() for line in text.splitlines() if line.startswith("    recsys ")]


def type_commands(lines: Sequence[str], folder: Path) -> list[Typed]:
    """Type commands into a shell, one after another; `serve` runs from its line to the last one.

    The one thing that is added is the server's port, a free one: another server may have the default one.

    Raises:
        RuntimeError: a command failed, or the server did not start.
    """
    environment = _environment(folder)
    typed: list[Typed] = []
    serving = next((n for n, line in enumerate(lines) if line.startswith("recsys serve ")), len(lines))
    typed += [_typed(line, folder, environment) for line in lines[:serving]]
    if serving < len(lines):
        with _serving(lines[serving], folder, environment) as address:
            typed.append(Typed(lines[serving], "", ""))
            for line in lines[serving + 1 :]:
                typed.append(_typed(f"{line} --address {address}", folder, environment))
    return typed


def _environment(folder: Path) -> dict[str, str]:
    """The caller's, without settings of ours, and with a `recsys` that is this checkout's."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    program = programs / "recsys"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m recsys.cli "$@"\n')
    program.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    root = str(Path(__file__).parents[2])
    return {**kept, "PATH": f"{programs}:{kept['PATH']}", "PYTHONPATH": root, "COLUMNS": "200"}


def _typed(line: str, folder: Path, environment: dict[str, str]) -> Typed:
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{line}\nended with {done.returncode}: {done.stderr}")
    return Typed(line, done.stdout, done.stderr)


@contextmanager
def _serving(line: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    ready = folder / "ready.json"
    chosen = {**environment, "RECSYS_PORT": "0", "RECSYS_READY_FILE": str(ready)}
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}"],
        cwd=folder,
        env=chosen,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline_s = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                process.terminate()
                raise RuntimeError(f"{line}\ndid not start: {process.communicate()[1]}")
            time.sleep(0.05)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        process.communicate()
