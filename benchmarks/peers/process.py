"""A peer library in a process of its own Python: JSON lines there and back. It ends with the block that started it.

It works in an empty folder that is removed after it, because libraries leave logs where they are started.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Ask = Callable[..., dict[str, Any]]


@contextlib.contextmanager
def peer(python: Path, script: str, *arguments: Path) -> Iterator[tuple[Ask, dict[str, Any]]]:
    """Yields a function that sends a command (``do`` and its arguments), and what the peer said when it was ready.

    Raises:
        RuntimeError: the peer has ended; its own error is on standard error.
    """
    paths = [python, Path(__file__).parent / script, *arguments]
    command = [str(path.absolute()) for path in paths]  # not resolved: an environment's python is a link
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with (
        tempfile.TemporaryDirectory(prefix="recsys-peer-") as cwd,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet, cwd=cwd
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def answer() -> dict[str, Any]:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{script} has ended; its error is above")
            found: dict[str, Any] = json.loads(line)
            return found

        def ask(do: str, **values: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            process.stdin.flush()
            return answer()

        try:
            yield ask, answer()
        finally:
            process.terminate()
            process.wait()


def missing(python: Path | None, package: str, *, module: str = "") -> str | None:
    """Reason why nothing can be compared with a package, if there is one; ``module``: its name where it is imported."""
    if python is None:
        return f"{package}: skipped; name a Python that has it with --{package}-python"
    if not python.is_file():
        return f"{package}: skipped; {python} does not exist"
    done = subprocess.run([str(python), "-c", f"import {module or package}"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"{package}: skipped; {python} cannot import it"
