"""Raw logs of any size to event tables, sorted by user and time.

::

    prepare.py          the whole way: `recsys prepare`
    engines/            DuckDB and Spark behind one Protocol
    row_batches.py      encoded rows as Arrow batches, which engines sort
    entity_table.py     users, items and other entities
    encoder.py          values to rows
    event_table.py      the table on disk
    names.py            the texts of its string ids
    written_events.py   events as written, for what makes samples of them
    negatives/          items that a user did not take, drawn
    requests/           what a server showed, joined with what was taken
    sample_rules.py     rules that make samples of a log
    make_samples.py     samples by these rules
    splits/             training, validation and test

Files are read, and rows checked, by ``recsys/rows``.
"""
