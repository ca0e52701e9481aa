"""Fixtures of tests that run the daily loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.graphs_once import write_graphs_once


@pytest.fixture(scope="module")
def graphs_once() -> Iterator[None]:
    """Graphs of models of one shape are written once a module."""
    with pytest.MonkeyPatch.context() as patch:
        write_graphs_once(patch)
        yield
