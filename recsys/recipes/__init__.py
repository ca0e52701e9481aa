"""Full runs as functions that return one configuration.

A recipe is the whole truth about a run: ``recsys train NAME`` runs it, ``recsys train NAME --show``
prints it, and ``path=value`` after the name changes it. A new recipe is a function in the module
of its data, whose docstring `recsys recipes` shows, and a line in the dict below.

``movielens.py``, ``frappe.py``, ``gowalla.py``, ``sequences.py`` and ``long_histories.py`` have the published data
sets; ``synthetic.py`` logs with known answers; ``own_log.py`` logs of one's own.
"""

from __future__ import annotations

from collections.abc import Callable

from recsys.errors import ConfigError, nearest
from recsys.recipes import frappe, gowalla, long_histories, movielens, own_log, sequences, synthetic
from recsys.training.config import RunConfig
from recsys.training.retrieval.config import RetrievalRunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "autoint_frappe": frappe.autoint_frappe,
    "autoint_movielens_1m": movielens.autoint_movielens_1m,
    "autoint_movielens_temporal": movielens.autoint_movielens_temporal,
    "autoint_plus_frappe": frappe.autoint_plus_frappe,
    "dcn_frappe": frappe.dcn_frappe,
    "dcn_movielens_ctr": movielens.dcn_movielens_ctr,
    "din": own_log.din,
    "din_beauty": sequences.din_beauty,
    "din_lastfm": sequences.din_lastfm,
    "din_long_movielens": long_histories.din_long_movielens,
    "din_movielens_1m": movielens.din_movielens_1m,
    "din_movielens_1m_demo": movielens.din_movielens_1m_demo,
    "din_movielens_temporal": movielens.din_movielens_temporal,
    "din_short_movielens_long": long_histories.din_short_movielens_long,
    "din_synthetic": synthetic.din_synthetic,
    "sdim_beauty": sequences.sdim_beauty,
    "sdim_lastfm": sequences.sdim_lastfm,
    "sdim_movielens_long": long_histories.sdim_movielens_long,
    "sdim_synthetic_long": long_histories.sdim_synthetic_long,
}

RETRIEVAL_RECIPES: dict[str, Callable[[], RetrievalRunConfig]] = {
    "lightgcn_gowalla": gowalla.lightgcn_gowalla,
    "lightgcn_lcfn": gowalla.lightgcn_lcfn,
    "lightgcn_movielens_1m": movielens.lightgcn_movielens_1m,
    "mf_gowalla": gowalla.mf_gowalla,
    "ngcf_code_gowalla": gowalla.ngcf_code_gowalla,
    "ngcf_gowalla": gowalla.ngcf_gowalla,
    "ngcf_lcfn": gowalla.ngcf_lcfn,
}
"""Models that rank all items; ``recsys train`` takes them as it does ``RECIPES``."""


def recipe(name: str) -> RunConfig:
    """The configuration of that name.

    Raises:
        ConfigError: no such recipe; names the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: {nearest(name, {**RECIPES, **RETRIEVAL_RECIPES})}")
    return RECIPES[name]()
