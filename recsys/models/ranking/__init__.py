"""Models that score a user's candidates, one a file, and the blocks they share.

Models: ``autoint.py``, ``dcn.py``, ``din.py``, ``sdim.py``. ``network.py``: the promises of a model. ``widths.py``: the
vectors that it reads. ``model.py``: tables and network together, as training has them. Blocks: ``blocks.py``
(activations, norms, MLP), ``attention.py`` (DIN's), ``field_attention.py`` (AutoInt's), ``long_attention.py`` (SDIM's
and those it is compared with), ``signatures.py`` (hashes of vectors), ``jagged_events.py`` (choices of events).

To add one, write a file with its configuration (``network.RankingConfig``) and its network (``network.RankingNet``),
add a line to ``RANKING_MODELS`` in ``models/registry.py``, and a recipe to ``recipes/``. ``dcn.py`` reads no history,
``din.py`` does; ``tests/models/test_registry.py`` adds one of thirty lines, and trains, exports and serves it.
"""
