"""Two towers: a user is read from the history at the moment of a request, an item from its id and its attributes.

::

    config.py       the hyper-parameters
    features.py     the part of a FeatureSet that the two sides read
    attention.py    causal self-attention over a history, by positions and time gaps
    network.py      the two sides above the embedding tables
    heads.py        prediction of the next item's attributes
    loss.py         sampled softmax over the items of a step, by the best of a user's interests
"""
