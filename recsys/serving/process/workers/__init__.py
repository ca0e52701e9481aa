"""Several server processes on one port.

- ``supervisor.py``: what they share, and their common start and end.
- ``pool.py``: worker processes started, watched, restarted when they die or hang.
- ``messages.py``: between supervisor and workers;
- ``worker.py``: one of them; ``control.py``: the supervisor's orders, and calls of the admin service.
"""
