"""The ``recsys`` command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def recsys(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the caller's settings, and without rich's line breaks."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "recsys.cli", *arguments],
        cwd=cwd,
        env={**inherited, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
