"""Models that rank all items, one a file, and the graph they propagate over.

Models: ``mf.py`` (and the BPR loss), ``lightgcn.py``, ``ngcf.py``; ``linear.py``, a closed form, and ``spectrum.py``,
its eigenvectors; ``two_tower/``, trained on histories. ``losses.py``: softmax, cosine contrastive. ``network.py``: the
promises of a model; ``first_rows.py``: rows that first vectors are made of; ``svd_start.py``: vectors
from singular vectors. ``hops.py``: messages over the graph. ``neighbour_sampling.py``: the part that a batch needs.
``sparse.py``: fixed sparse matrices times dense ones. ``history_weights.py``: weights of the events of a history.
``attributes.py``: rows of items by their attributes; ``ridge.py``: the regression that fits them.

To add one, write a file with its configuration (``network.VectorConfig``) and a function that builds its network
(``network.RetrievalNet``), add a line to ``RETRIEVAL_MODELS`` in ``models/registry.py``, and a recipe to ``recipes/``.
The smallest with a graph is ``lightgcn.py``; ``tests/models/test_registry.py`` adds one of fifteen lines.
"""
