"""Tables of a retrieval bundle that are made of which users have which items in the log.

``add.py``: what an export may ask for, added to a bundle. ``neighbours.py``: items that share most users.
``audience.py``: the users of each item.
"""
