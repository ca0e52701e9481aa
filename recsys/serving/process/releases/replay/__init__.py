"""Replay of recorded requests: a release that is to answer, beside the live one.

- ``replay.py``: the comparison, its bounds and its report;
- ``cases.py``: the runs of both on a request; ``samples.py``: requests for want of recorded ones;
- ``slowdown.py``: the verdict on pairs of times.
"""
