"""Rules: how a list is made of ranked items, beyond their scores.

- ``language.py``: Rules, what a request asks for, checked;
- ``listing.py``: the list, with all that is read for it; ``arrange.py``: scores, values and vectors to an order;
- ``values.py``: the items' values that rules read, as they are now; ``vectors.py``: their vectors;
- ``pins.py``: pinned items, and why one has no place; ``report.py``: what each rule did, for an answer.
"""
