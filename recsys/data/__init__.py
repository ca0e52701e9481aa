"""The offline side: event logs to user-sorted event tables, samples and batches.

::

    datasets.py         the data sets that recipes name
    prepared.py         a data set in our form, made once and kept
    column_folder.py    arrays on disk
    sources/            public data, and made logs
    proposal/           a look at a log, and the FeatureSet it suggests
    log/                raw logs of any size to event tables
    samples/            samples, histories, batches
    interactions/       pairs of users and items, for models that rank all items
"""
