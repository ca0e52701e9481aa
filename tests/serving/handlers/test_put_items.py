"""Items that were put and that a served model will find, or never will, are counted, and these are named in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import ModelError
from recsys.serving.handlers.put_items import PutItems


class Index:
    """Knows items below 10; a negative one damages it."""

    model = "knower"

    def __init__(self, *item_inputs: str) -> None:
        self.item_inputs = item_inputs

    def has_items(self, keys: Int64Array) -> BoolArray:
        if (keys < 0).any():
            raise ModelError("damaged")
        return np.asarray(keys < 10)


def put_items(*indexes: Index | None, most: int = 10) -> PutItems:
    """Of a server whose models have these indexes."""

    @contextmanager
    def current() -> Iterator[Any]:
        live = [SimpleNamespace(name="r-1", recommender=index and SimpleNamespace(index=index)) for index in indexes]
        yield SimpleNamespace(models={str(n): SimpleNamespace(live=each) for n, each in enumerate(live)})

    return PutItems(SimpleNamespace(current=current), most=most)  # type: ignore[arg-type]


@pytest.mark.parametrize(("inputs", "found"), [(("price",), "soon"), ((), "never")])
def test_items_that_the_bundle_has_not_are_counted_once_each(
    inputs: tuple[str, ...], found: str, caplog: pytest.LogCaptureFixture
) -> None:
    items = put_items(Index(*inputs), None)
    with caplog.at_level(logging.WARNING):
        items.put(np.array([1, 11, 12, 11]))
        items.put(np.array([2]))
    assert items.counts.read() == {found: 2}
    assert ("a put of 2 items that retrieval model knower never finds" in caplog.text) == (found == "never")


def test_where_no_item_is_added_none_is_found_soon(caplog: pytest.LogCaptureFixture) -> None:
    items = put_items(Index("price"), most=0)
    items.put(np.array([11]))
    assert items.counts.read() == {"never": 1}
    assert "never finds: RECSYS_MAX_ADDED_ITEMS is 0" in caplog.text


def test_every_served_model_counts_and_a_damaged_one_stops_no_put() -> None:
    items = put_items(Index(), Index("price"))
    items.put(np.array([11]))
    assert items.counts.read() == {"never": 1, "soon": 1}
    items.put(np.array([-1, 12]))
    assert items.counts.read() == {"never": 1, "soon": 1}


def test_stored_items_that_no_list_can_have_are_those_of_models_that_make_no_rows() -> None:
    stored = np.array([1, 9, 10, 11])
    assert put_items(Index(), None).never_found(stored) == 2
    assert put_items(Index("price")).never_found(stored) == 0, "they are found soon"
    assert put_items(Index("price"), most=0).never_found(stored) == put_items(Index(), Index()).never_found(stored) / 2
    items = put_items(Index())
    assert [items.never_found(each) for each in (stored, stored, np.array([10]))] == [2, 2, 1], "counted anew"
    assert items.never_found(np.array([-1])) == 0, "damaged tables: its calls say so"
