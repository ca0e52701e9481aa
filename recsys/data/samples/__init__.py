"""Training samples: point-in-time histories, codes, batches.

::

    dataset.py        samples and what they read
    histories.py      histories as positions in the event table
    row_codes.py      ids as codes of rows
    id_pairs.py       pairs of ids that met, for GraphHash
    loader.py         shuffled, resumable batches
    fingerprint.py    of the data
"""
