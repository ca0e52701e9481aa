"""Telemetry: counters that all workers share, the endpoint that shows them, the stages of a request, traces.

- ``stage_timer.py``: the time of one request, stage by stage.
- ``families.py``: what is counted, by name and labels. ``layout.py``: the file that holds it, a row for each worker.
- ``counters.py``: one worker counts in its row; ``label_counts.py``: counts that it polls. ``totals.py``: sums of rows.
- ``release_figures.py``: sums of one release, also in a server's status; ``slots.py``: those of the page alone.
- ``in_service.py``: the releases of the slots, and the labels they have; ``drift.py``: of their scores.
- ``missing.py``: ids that the store does not know, and missing values.
- ``metrics.py``: file and endpoint of a server. ``prometheus.py``: the page; ``page_server.py``: HTTP for it;
  ``certificate_end.py``: the state of certificates.
- ``tracing/``: spans of sampled calls; round trips to the store, timed.

To add a counter or gauge: a ``Family`` in ``families.families``, a row in docs/operate/monitoring.md;
``Telemetry.count`` or ``set`` where it happens; one of each release is a ``Family`` of ``families.slot_families`` and
``Telemetry.count_slot``, or, if the guards of a switch read it, a name of ``layout.RELEASE_COUNTS``, a field of
``ReleaseFigures``, and a family of ``RELEASE_FAMILIES``. Parts that know nothing of telemetry count for themselves, and
``Telemetry.polling`` takes that over; a refusal is told by ``current_call.note_refusal``. To add a stage: a field and a
name in ``stage_timer.py``, a field of ``Timings`` in the proto, and a row in docs/operate/monitoring.md.
"""
