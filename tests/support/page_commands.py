"""The commands of a documentation page, run as a reader would type them.

A block of ``sh`` or ``python`` is run; a block of ``text`` behind it, under the same heading, is what it prints. A
comment in front of a block, which readers do not see, says what else there is to know:

- ``<!-- server -->``: it runs in the background until the next such block, or the end;
- ``<!-- exit 3 -->``: it ends with that code;
- ``<!-- not run: REASON -->``: it is not run.

Ports are free ones in place of 50051 and 9090. Releases are named by their content, which differs from run to run: a
name that a page shows, as ``shop-9dad6139036e``, stands in later commands for the one that was printed in its place.

``python -m support.page_commands PAGE ...`` runs pages and prints what they printed, to write the ``text`` blocks from.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from support.paths import ROOT

READY_S, COMMAND_S = 300, 900
RELEASE = re.compile(r"\bshop-[0-9a-f]{4,}\b")
ADDRESSED = re.compile(
    r"^(\s*(?:RECSYS_\w+=\S+ )?recsys (?:rank|recommend|retrieve|explain --user)\b[^|>#]*)", re.MULTILINE
)


class Block(NamedTuple):
    """A block of commands of a page: the line of its fence, what is asked of it, and what the page says it prints."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    shown: str


class Ran(NamedTuple):
    """A block that was run, and what it printed on standard output and error."""

    block: Block
    printed: str
    seconds: float


def blocks(page: Path) -> list[Block]:
    """Find the blocks of commands of a page, run or not.

    Raises:
        ValueError: a fence has no end, the comment in front of it is none of those above, or a ``text`` block has no
            command before it.
    """
    found: list[Block] = []
    opened, body, before, alone = ("", 0), [""], "", True
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        language, at = opened
        if at and line.strip() == "```":
            text = textwrap.dedent("\n".join(body))
            if language in {"sh", "python"}:
                found.append(Block(page, at, language, text + "\n", _mark(before, f"{page.name}:{at}"), ""))
                alone = False
            elif language == "text" and alone:
                raise ValueError(f"{page.name}:{at}: output without a command before it under its heading")
            elif language == "text":
                found[-1] = found[-1]._replace(shown=f"{found[-1].shown}\n{text}")
            opened, before = ("", 0), ""
        elif at:
            body.append(line)
        elif fence := re.match(r"```(\w*)$", line.strip()):
            opened, body = (fence[1], number), []
        elif line.strip():
            before, alone = line.strip(), alone or line.startswith("#")
    if opened[1]:
        raise ValueError(f"{page.name}:{opened[1]}: the fence has no end")
    return found


def _mark(before: str, where: str) -> str:
    if not before.startswith("<!--"):
        return ""
    if known := re.match(r"<!-- (server|exit \d+|not run: .+) -->$", before):
        return known[1]
    raise ValueError(f"{where}: {before}: expected server, exit N, or not run: REASON")


def run_pages(pages: Sequence[Path], folder: Path, *, ports: tuple[int, int]) -> Iterator[Ran]:
    """Run the blocks of pages in order, in one folder; ports are those of servers and of their metrics page.

    Raises:
        AssertionError: a command ended otherwise than the page says, or a server did not start; with what it printed.
    """
    for name in ("benchmarks", "deploy", "examples", "scripts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    releases: dict[str, str] = {}
    with ExitStack() as server:
        for block in (b for page in pages for b in blocks(page) if not b.mark.startswith("not run")):
            began_s = time.perf_counter()
            command = _command(block, ports, releases)
            if block.mark == "server":
                server.close()
                printed = server.enter_context(_serving(block, command, folder, ports))
            else:
                printed = _run(block, command, folder, ports)
            for shown, actual in zip(RELEASE.findall(block.shown), RELEASE.findall(printed), strict=False):
                releases.setdefault(shown[:9], actual)
            yield Ran(block, printed, time.perf_counter() - began_s)


def missing_output(ran: Ran) -> str:
    """The first part of what a page shows that was not printed; empty if all was.

    Numbers, hashes and spaces may differ, and ``...`` stands for anything.
    """
    printed, place = _comparable(ran.printed), 0
    for part in ran.block.shown.split("..."):
        wanted = _comparable(part)
        place = printed.find(wanted, place)
        if place < 0:
            return wanted
        place += len(wanted)
    return ""


def _comparable(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "#", text)
    text = re.sub(r"(?<![A-Za-z])[-+]?\d[\d,.]*(e[-+]?\d+)?", "#", text)
    return " ".join(re.sub(r"[▏▎▍▌▋▊▉█]+", " ", text).split())


def _command(block: Block, ports: tuple[int, int], releases: Mapping[str, str]) -> list[str]:
    text = RELEASE.sub(lambda m: releases.get(m[0][:9], m[0]), block.text)
    text = text.replace("127.0.0.1:50051", f"127.0.0.1:{ports[0]}").replace("9090", str(ports[1]))
    if block.language == "python":
        return [sys.executable, "-c", text]
    text = ADDRESSED.sub(lambda m: m[1].rstrip() + f" --address 127.0.0.1:{ports[0]} ", text)
    return ["bash", "-euo", "pipefail", "-c", text]


def _environment(folder: Path, ports: tuple[int, int]) -> dict[str, str]:
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    for name, arguments in (("recsys", "-m recsys.cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    path = f"{programs}:{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "110", "RECSYS_PORT": str(ports[0])}


def _run(block: Block, command: Sequence[str], folder: Path, ports: tuple[int, int]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_environment(folder, ports), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    expected = int(block.mark.removeprefix("exit ")) if block.mark else 0
    where = f"{block.page.name}:{block.line}"
    assert done.returncode == expected, f"{where}\n{block.text}ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@contextmanager
def _serving(block: Block, command: Sequence[str], folder: Path, ports: tuple[int, int]) -> Iterator[str]:
    ready, log = folder / "ready.json", folder / "server.log"
    environment = {**_environment(folder, ports), "RECSYS_READY_FILE": str(ready)}
    with log.open("w") as stream:
        # Its own group: `recsys` is a shell's child.
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        until_s = time.monotonic() + READY_S
        while not ready.exists():
            assert server.poll() is None and time.monotonic() < until_s, f"{block.text}{log.read_text()}"
            time.sleep(0.05)
        time.sleep(0.2)  # its line comes with the file
        yield log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself: what failed says so
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


if __name__ == "__main__":
    import tempfile

    from support.redis_servers import free_port

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("PAGES_FOLDER", temporary))  # a folder that is kept holds what earlier pages made
        for ran in run_pages([Path(p).resolve() for p in sys.argv[1:]], folder, ports=(free_port(), free_port())):
            where = f"{ran.block.page.name}:{ran.block.line} ({ran.seconds:.1f} s)"
            print(f"===== {where}\n{ran.block.text}-----\n{ran.printed}", flush=True)
            if absent := missing_output(ran):
                print(f"----- NOT PRINTED: {absent}", flush=True)
