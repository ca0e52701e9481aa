"""Filters: which items an answer may have, by their values as they are now.

- ``language.py``: Filter, what a request asks for, checked; ``contradiction.py``: filters that no item can pass;
- ``clauses.py``: a filter's tests on item columns; ``planner.py``: all of them, the most selective first;
- ``rows.py``: places in the columns to rows of an index;
- ``selection.py``: IndexFilter, what handlers ask, which keeps the answers to the latest filters.
"""
