"""Items and users near to given items, from the tables of a retrieval bundle.

``similar.py``: items whose vectors are near to those of seeds. ``neighbours.py``: items that share users with seeds.
``audience.py``: users who have most of the seeds. ``tables.py``: tables of a bundle, mapped.
"""
