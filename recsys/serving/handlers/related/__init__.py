"""Items near to given ones, for whoever asks.

``similar.py``: items like these.
"""
