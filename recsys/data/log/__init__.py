"""Raw logs of any size to event tables, sorted by user and time.

::

    prepare.py          the whole way: `recsys prepare`
    raw_files.py        Parquet, CSV, JSON lines
    columns.py          columns that files must and may have
    engines.py          DuckDB and Spark behind one Protocol
    arrow_values.py     Arrow columns to values
    encoder.py          values to rows
    event_table.py      the table on disk
    names.py            the texts of its string ids
    labels.py           the label of a row
    written_events.py   events as written, for what makes samples of them
    negatives/          items that a user did not take, drawn
    splits/             training, validation and test
    rejects.py          rows that do not fit

To add an engine: a class of the Protocol ``engines.Engine``, its name in ``engines.ENGINES``, a branch of
``open_engine``.
"""
