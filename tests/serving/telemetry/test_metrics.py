"""The counter file while a server runs."""

from __future__ import annotations

import fcntl
import os

import pytest

from recsys.serving.settings import Settings
from recsys.serving.telemetry.metrics import counter_file


def test_the_counts_are_locked_against_those_who_tidy_up() -> None:
    with counter_file(Settings(metrics_port=0), workers=1, methods=[]) as counts:
        assert counts is not None
        folder = os.open(counts.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
    assert not counts.parent.exists()
