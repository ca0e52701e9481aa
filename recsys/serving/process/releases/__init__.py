"""Releases in a running server: what is to be served, and the switch from one to another.

- ``plan.py``: what a server is to serve, as its workers get it;
- ``switch.py``: a worker's part of a switch: it loads what is new, then changes over;
- ``replay.py``: recorded requests put to a new release and to the live one before that; ``cases.py``: the runs of
  both on a request; ``samples.py``: requests for want of recorded ones; ``slowdown.py``: the verdict on pairs of times.
"""
