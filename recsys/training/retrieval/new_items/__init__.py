"""Items that come after training, as training prepares for them.

- ``length.py``: the length of rows made of attributes, by which such items have their share of the places in lists.
"""
