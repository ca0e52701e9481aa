"""Filters and rules as the client takes them: what is none is refused at once, by its name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from recsys.client import pin, where
from recsys.client.messages.filters import filter_message
from recsys.client.messages.rules import rule_messages
from recsys.errors import InvalidInputError


@pytest.mark.parametrize("test", [None, 1.5, np.float32(1.5), b"acme", {"acme": 1}, (1, 2, 3), object()])
def test_what_is_no_test_is_refused(test: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"brand: got {re.escape(repr(test))}; allowed: a value or a list"):
        where(brand=test)


def test_scalars_and_arrays_of_numpy_are_what_they_hold() -> None:
    given = where(in_stock=np.bool_(True), labels=np.array([1, 2]), size=np.int64(3), price=(np.float32(0.5), None))
    assert filter_message(given) == filter_message(where(in_stock=True, labels=[1, 2], size=3, price=(0.5, None)))


@pytest.mark.parametrize("rules", [None, pin(1, 1), "pin"])
def test_rules_that_are_no_list_are_refused(rules: Any) -> None:
    with pytest.raises(InvalidInputError, match="rules: got .*; allowed: a list of what at_most"):
        rule_messages(rules)
