"""Explanations of scores: what is explained is what the served graphs answer, whatever the model.

- ``explainer.py``: a request, read as Rank reads it, to an explanation; ``queries.py``: both of them;
- ``place.py``: the place of an item in a list, and the rule that moved it;
- ``parts.py``: the parts of a request, and the scores of coalitions of them;
- ``shapley.py``: the contributions of players of any game;
- ``past.py``: a history without some of its events;
- ``attention.py``: weights of target attention, from the tensors of the ``user`` graph.

Shapes use ``P`` parts that have a value, ``K`` coalitions, ``S`` events, ``R`` rows and ``D`` width of a state.
"""
