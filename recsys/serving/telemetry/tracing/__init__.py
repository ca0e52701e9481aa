"""Traces: spans of sampled calls in OpenTelemetry's form, made from their stages after they have ended.

- ``traceparent.py``: the caller's W3C header, read and written. Needs nothing installed.
- ``opened.py``: the tracer that settings ask for. ``tracer.py``: which calls are traced. ``spans.py``: their
  spans; the only file that imports OpenTelemetry.
- ``exporter.py``: a bounded queue, and the thread that sends it.
- ``timed_link.py``: round trips to the store, counted and a part of their call's trace.

A call that is not traced costs a reading of its metadata; nothing waits for the exporter.
"""
