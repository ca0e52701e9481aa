"""Releases in a running server: what is to be served, and the switch from one to another.

In the supervisor:

- ``first.py``: what a server starts with; ``follow.py``: ``served.json`` read when it changes;
- ``coordinator.py``: one switch at a time, from the file to all workers; ``kept.py``: what stays loaded for a while,
  and where to go back to;
- ``switching.py``: a switch in progress; ``reloads.py``: callers that wait for it;
- ``check.py``: files verified at low priority;
- ``probation.py``: what answers since a switch, watched; ``watch.py``: the figures of one such release;
  ``verdicts.py``: those that are beyond their bounds, and how surely.

In a worker:

- ``switch.py``: loads what is new, then changes over;
- ``replay/``: recorded requests put to a new release and to the live one before that.

Both know ``plan.py``: the releases that a server loads, and which answers what. In neither: ``logged.py``, requests of
a log, put to two releases by `recsys release compare`.
"""
