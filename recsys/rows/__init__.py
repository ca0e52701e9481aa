"""One contract for a row, whatever way it comes in (``docs/data.md``, "One row").

::

    contract.py      fields of events, impressions and entities; columns of raw values to encoded ones
    label_rule.py    `rating>=4`: which rows are samples, and their labels
    arrow.py         Arrow columns as the contract takes them
    files.py         files, folders and patterns; formats; packed files
    text.py          lines of JSON and CSV
    read.py          files to raw rows
    encode.py        files to encoded rows
    rejects.py       rows that are not taken: where, why, how many

The verdict on one value is in ``features/values.py``. To add a format: its ending in ``files.py``, its reader in
``read.py``, its form in ``tests/contracts/row_contract.py``.
"""
