"""Telemetry: counters that all workers share, the endpoint that shows them, the stages of a request.

- ``stage_timer.py``: the time of one request, stage by stage.
- ``families.py``: the counters by name and labels. ``layout.py``: the file that holds them, a row for each worker.
- ``counters.py``: one worker counts in its row; ``label_counts.py``: counts that it polls. ``totals.py``: sums of rows.
- ``release_figures.py``: sums of one release. ``in_service.py``: the releases of the slots, and the labels they have.
- ``metrics.py``: file and endpoint of a server. ``prometheus.py``: the page; ``page_server.py``: HTTP for it;
  ``certificate_end.py``: the state of certificates.

To add a counter: a ``Family`` in ``families.families``, a row in docs/monitoring.md, and ``Telemetry.count`` where it
happens; one of each release is a name of ``layout.RELEASE_COUNTS``, a field of ``ReleaseFigures``, and a family of
``RELEASE_FAMILIES``. Parts that know nothing of telemetry count for themselves, and ``Telemetry.polling`` takes that
over. To add a stage: a field and a name in ``stage_timer.py``, a field of ``Timings`` in the proto, and a row in
docs/monitoring.md.
"""
