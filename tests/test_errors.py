"""Hints of error messages: of bounded size and cost, whatever a caller sends."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pytest

from recsys.errors import nearest


def test_a_name_that_is_too_long_to_be_meant_is_compared_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def get_close_matches(word: str, possibilities: Sequence[str], **options: object) -> list[str]:
        compared.append(word)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", get_close_matches)
    assert nearest("x" * (8 << 20), ["model", "x" * 64]) == f"valid: model, {'x' * 64}"
    assert compared == []
    assert nearest("modle", ["model"]) == "valid: model" and compared == ["modle"]


def test_of_many_names_the_first_are_listed_and_of_long_ones_the_beginning() -> None:
    names = [f"name{n:06d}" for n in range(100_000)]
    text = nearest("name000007", names)
    assert text.startswith("did you mean 'name000007'? valid: name000000, name000001, ")
    assert text.endswith("name000199 and 99,800 more")
    assert nearest("a", ["b" * 1_000_000]) == f"valid: {'b' * 128}..."
