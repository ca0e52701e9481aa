"""Values of items that requests filter by, in memory that the workers of a server share, kept up with the store.

- ``key_table.py``: KeyTable, keys to places and back, in arrays that may be shared;
- ``layout.py``: Layout, which columns a file has and where they stand in it;
- ``postings.py``: Postings, places by values, as of a moment;
- ``generation.py``: Generation, a mapped file of columns;
- ``state.py``: State, which of these files counts, and how current it is;
- ``writer.py``: ColumnWriter, which changes them;
- ``follower.py``: ColumnFollower, the thread that has the one writer of a server follow the store;
- ``columns.py``: ItemColumns, what handlers read.
"""
