"""Items and users near to given items, for whoever asks.

``similar.py``: items like these. ``trending.py``: items with most events lately. ``audience.py``: users who
have most of these.
"""
