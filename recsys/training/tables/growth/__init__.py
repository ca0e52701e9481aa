"""Tables that grow by a new log.

::

    grow.py        a grown run, made from an older one
    clusters.py    clusters that a growth needs
"""
