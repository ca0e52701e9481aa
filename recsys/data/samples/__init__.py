"""Training samples: point-in-time histories, codes, batches.

::

    stored.py         samples as files: events or impressions, labels, splits
    dataset.py        samples joined with their events; batches
    ids.py            columns of ids, their codes and counts
    histories.py      histories as positions in the event table
    row_codes.py      ids as codes of rows
    id_pairs.py       pairs of ids that met, for GraphHash
    loader.py         shuffled, resumable batches
    numbers.py        transforms of numeric features, fitted to the training samples
    since.py          the newest part, from a time on
    fingerprint.py    of the data
"""
