"""One contract for a row, whatever way it comes in (``docs/guides/data.md``, "One row").

::

    contract.py      fields of events, impressions and entities; columns of raw values to encoded ones
    fields.py        one field; the forms of a raw column
    label_rule.py    `rating>=4`: which rows are samples, and their labels
    arrow.py         Arrow columns as the contract takes them
    parquet.py       columns that a Parquet file must and may have
    files.py         files, folders and patterns; formats; packed files
    text.py          lines of JSON and CSV
    read.py          files to raw rows
    request_log.py   requests that a server logged
    encode.py        files to encoded rows
    events.py        encoded events to packed ones
    rejects.py       rows that are not taken: where, why, how many

The verdict on one value is in ``features/values.py``. To add a format: its ending in ``files.py``, its reader in
``read.py``, its form in the contract suite.
"""
