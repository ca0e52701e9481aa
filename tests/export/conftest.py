"""A graph is written once for all tests here that export the same model."""

from collections.abc import Iterator

import pytest
from support.graphs_once import write_graphs_once


@pytest.fixture(scope="session", autouse=True)
def graphs_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        write_graphs_once(patch)
        yield
