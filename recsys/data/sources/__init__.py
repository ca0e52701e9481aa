"""Public data sets, and logs made by us, read into our schema.

::

    raw_log.py      a rating log in raw values, and its FeatureSet; the names of all data sets
    download.py     a file whose checksum is known
    frappe.py       Frappe
    movielens/      MovieLens-1M and its splits
    sequences/      item sequences of S3-Rec
    synthetic/      logs of which the best possible scores are known

To add a source: a module here that gives a ``RawLog`` or a prepared ``Dataset``, its name in ``raw_log.DATASETS``, a
branch in ``data/datasets.py``, a recipe in ``recsys/recipes``. A log of one's own needs none of it: ``recsys prepare``.
"""
