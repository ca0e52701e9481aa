"""Context: what a call of the client says of the program that makes it, its current span."""

from __future__ import annotations

import sys

Metadata = tuple[tuple[str, str], ...]


def call_metadata() -> Metadata:
    """The metadata of a call: ``traceparent`` of the current OpenTelemetry span, if the program has one, else nothing.

    OpenTelemetry is not imported for it: a program without it has no span.

    >>> call_metadata()
    ()
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ()
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ()
    return (("traceparent", f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"),)
