"""Starts a program in several processes on this machine, as ``torchrun`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT, TESTS

TIMEOUT_S = 120


def torchrun(program: Path, *arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run ``program`` to its end; one that hangs fails the test."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{TESTS}:{ROOT}",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        [*command, str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
