"""A counter file of two workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.serving.telemetry.layout import create_counter_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return create_counter_file(tmp_path / "telemetry", workers=2, methods=["Rank", "AppendEvents"])
