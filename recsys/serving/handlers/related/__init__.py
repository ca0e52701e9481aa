"""Items near to given ones, for whoever asks.

``similar.py``: items like these. ``trending.py``: items with most events lately.
"""
