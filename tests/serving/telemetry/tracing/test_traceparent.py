"""The header that names a caller's span, as the W3C's recommendation has it."""

from __future__ import annotations

import pytest

from recsys.serving.telemetry.tracing.traceparent import Traceparent, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True), ("fe", False)])
def test_the_last_bit_of_the_flags_says_that_it_is_sampled(flags: str, sampled: bool) -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == Traceparent(TRACE, SPAN, sampled)


def test_a_later_version_may_have_more_at_its_end() -> None:
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-more") == Traceparent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        "0" * 10_000,
    ],
)
def test_what_is_malformed_is_no_header(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_header_that_is_written_is_read_as_it_was() -> None:
    for sampled in (True, False):
        own = Traceparent(TRACE, SPAN, sampled)
        assert parse_traceparent(own.header()) == own
