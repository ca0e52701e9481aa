"""Logs made by us, of which the best possible scores are known.

::

    logs.py           the logs
    best_scores.py    the best possible scores on the long-range log
"""
