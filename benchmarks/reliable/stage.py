"""Stage of the parts: the reference model, a filled Redis, servers."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf")
_START_S = 120.0


@contextlib.contextmanager
def server(
    folder: Path, bundle: Path, name: str, *arguments: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any], Path]]:
    """A server of a bundle; its process, what its ready file says, and its log."""
    from harness import serving_parts

    ready, log = folder / f"{name}.json", folder / f"{name}.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "recsys.cli", "serve", str(bundle), "--ready-file", str(ready), *arguments]
    with serving_parts.running(command, log, **variables) as process:
        deadline_s = time.monotonic() + _START_S
        while not ready.exists():
            serving_parts.check_alive(process, log, deadline_s)
            time.sleep(0.01)
        yield process, json.loads(ready.read_text()), log


def pids(folder: Path, name: str) -> Sequence[int]:
    """Process ids of the workers that a server's ready file has now; empty while there is none."""
    try:
        return list(json.loads((folder / f"{name}.json").read_text())["workers"])
    except (OSError, ValueError):
        return []
