"""The corpus of fuzzing, and variants of it, without atheris: no decoder raises anything but the errors it may."""

from __future__ import annotations

import random

import pytest
from support.paths import TESTS

from fuzz import targets
from fuzz.targets import REQUESTS, TARGETS
from recsys.serving.rpc.methods import SERVICES

CORPUS = TESTS / "fuzz" / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
VARIANTS = 20


def variant(data: bytes, chance: random.Random) -> bytes:
    """The bytes, changed at a place or two: one other, cut out, doubled, or of the largest or smallest number."""
    for _ in range(chance.randint(1, 2)):
        begin = chance.randrange(len(data) + 1)
        end = min(begin + chance.choice((1, 4, 8)), len(data))
        put = chance.choice((b"", chance.randbytes(end - begin), data[begin:end] * 2, b"\xff" * 8, b"\0" * 8, b"\x7f"))
        data = data[:begin] + put + data[end:]
    return data


def test_every_target_has_a_small_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert all(path.stat().st_size <= 16_384 for path in FILES)
    assert len(FILES) <= 50 * len(TARGETS)


def test_every_request_of_every_method_is_a_target() -> None:
    methods = [method for service in SERVICES for method in service.methods]
    assert {kind.DESCRIPTOR for kind, _ in REQUESTS} == {method.input_type for method in methods}


@pytest.mark.parametrize("target", TARGETS)
def test_what_fuzzing_found_raises_nothing_but_the_errors_of_ours(target: str) -> None:
    chance = random.Random(16)
    for file in [path for path in FILES if path.parent.name == target]:
        data = file.read_bytes()
        TARGETS[target](data)
        for _ in range(VARIANTS):
            TARGETS[target](variant(data, chance))


def test_a_decoder_that_raises_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes, **options: object) -> None:
        raise IndexError("ours")

    monkeypatch.setattr(targets, "unpack_state", broken)
    with pytest.raises(IndexError, match="ours"):
        TARGETS["state"](b"any")
