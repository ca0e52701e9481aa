"""Traceparent: the header by which a caller says which trace a call belongs to (W3C Trace Context, section 3.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "traceparent"

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Traceparent(NamedTuple):
    """A caller's span.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        sampled: its spans are recorded.
    """

    trace_id: str
    span_id: str
    sampled: bool

    def header(self) -> str:
        """Write the header, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"


def parse_traceparent(text: str) -> Traceparent | None:
    """Read a header; None for what is none, which counts as if it had not been sent.

    >>> parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    Traceparent(trace_id='4bf92f3577b34da6a3ce929d0e0e4736', span_id='00f067aa0ba902b7', sampled=True)
    >>> parse_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    # A later version may have more at its end; version 00 may not, and ff is none.
    if len(text) > 512 or (found := _FORM.fullmatch(text)) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Traceparent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
