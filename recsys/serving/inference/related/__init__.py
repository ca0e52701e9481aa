"""Items and users near to given ones, from the tables of a retrieval bundle.

``similar.py``: items whose vectors are near to those of seeds.
"""
