"""Processes that serve: one or several, from start to stop.

In reading order:

- ``serve.py``: the entry point; one process, or a supervisor with workers.
- ``server.py``: one process that loads, listens, serves, drains. ``listening/``: gRPC's server and its ports.
- ``exposure.py``: what runs unsecured, and what is refused unless it is asked for.
- ``startup.py``, ``models.py``: a private Redis, models opened and run once, hot rows read ahead.
- ``stores.py``: clients of the feature store. ``assembly.py``: the Ranker service, built from its parts.
- ``item_columns.py``: the folder of values that filters read, and who follows the store for it.
- ``releases/``: what is to be served, and the switch from one release to another.
- ``workers/``: several processes on one port, restarted when they die or hang.
- ``watchdog.py``: probes of a request's path; gRPC health from their results.
- ``children.py``: processes that a supervisor starts.
- ``signals.py``, ``ready_file.py``, ``malloc.py``: what a process asks of the system. ``ending.py``: its end, in time.

To add a step of start-up: a context manager, entered in ``server.serving`` if each worker needs its own, in
``workers/supervisor._shared_resources`` if all share it. To add a part of the request path that may hang: a probe in
``watchdog.request_path_probes``.
"""
