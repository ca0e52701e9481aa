"""Item sequences of S3-Rec, split leave-one-out.

::

    files.py      the published files
    prepare.py    events, candidates and samples of them

To add a set of the same form: its files in ``prepare._FILES`` and its name in ``raw_log.SEQUENCES``.
"""
