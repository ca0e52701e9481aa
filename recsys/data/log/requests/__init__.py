"""Labelled impressions from a server's request log: what was shown, and what of it was taken soon after.

::

    read.py      request logs to rows of impressions
    join.py      labels: later events of the same user and item
    write.py     the samples of a log
"""
