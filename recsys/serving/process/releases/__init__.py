"""Releases in a running server: what is to be served, and the switch from one to another.

- ``plan.py``: what a server is to serve, as its workers get it;
- ``switch.py``: a worker's part of a switch: it loads what is new, then changes over.
"""
