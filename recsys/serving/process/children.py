"""Children: Python processes that a supervisor starts and talks to through pipes."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from typing import Any

from recsys.serving.logs import json_lines

LOG_FORMAT = "RECSYS_LOG_FORMAT"
"""Variable by which a child learns the form of its log lines."""


def start_python(*arguments: str, first: Any) -> subprocess.Popen[bytes]:
    """Start a Python that finds what this one does, and send it a first message, pickled; its pipes stay open.

    Args:
        arguments: of the interpreter.
        first: the message. A process that has ended already gets none: its end is for whoever waits for it.

    Raises:
        OSError: no memory or no process to be had.
    """
    # -P: a file in the current folder must not stand in for a module. What this process found, a child finds too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment[LOG_FORMAT] = "json" if json_lines() else "text"
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Ctrl-C reaches a terminal's whole group: the supervisor alone signals its children.
        process_group=0,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(first, process.stdin)
        process.stdin.flush()
    return process
