"""Full runs as functions that return one configuration.

A recipe is the whole truth about a run: ``recsys train NAME`` runs it, ``recsys train NAME --show``
prints it, and ``path=value`` after the name changes it. A new recipe is a function in the module
of its data, whose docstring `recsys recipes` shows, and a line in the dict below.

The recipes of built-in data keep no spare rows: what is published of them has exact tables, and no later log comes.

``movielens.py``, ``frappe.py``, ``gowalla.py``, ``sequences.py`` and ``long_histories.py`` have the published data
sets; ``synthetic.py`` logs with known answers; ``own_log.py`` logs of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recsys.errors import ConfigError, nearest
from recsys.recipes import frappe, gowalla, long_histories, movielens, own_log, sequences, synthetic
from recsys.training.config import RunConfig
from recsys.training.retrieval.config import RetrievalRunConfig

OWN_LOG: dict[str, Callable[[], RunConfig]] = {
    "din": own_log.din,
    "sdim": own_log.sdim,
    "autoint": own_log.autoint,
    "autoint_plus": own_log.autoint_plus,
    "dcn": own_log.dcn,
}
"""Recipes of ranking models for any log that `recsys prepare` wrote, by model."""

OWN_LOG_RETRIEVAL: dict[str, Callable[[], RetrievalRunConfig]] = {
    "linear": own_log.linear,
    "two_tower": own_log.two_tower,
    "mf": own_log.mf,
    "lightgcn": own_log.lightgcn,
    "ngcf": own_log.ngcf,
}
"""Recipes of models that rank all items for any such log, by model."""

RECIPES: dict[str, Callable[[], RunConfig]] = {
    **OWN_LOG,
    "autoint_frappe": frappe.autoint_frappe,
    "autoint_movielens_1m": movielens.autoint_movielens_1m,
    "autoint_movielens_temporal": movielens.autoint_movielens_temporal,
    "autoint_plus_frappe": frappe.autoint_plus_frappe,
    "dcn_frappe": frappe.dcn_frappe,
    "dcn_movielens_ctr": movielens.dcn_movielens_ctr,
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
    **OWN_LOG_RETRIEVAL,
    "lightgcn_gowalla": gowalla.lightgcn_gowalla,
    "lightgcn_lcfn": gowalla.lightgcn_lcfn,
    "lightgcn_movielens_1m": movielens.lightgcn_movielens_1m,
    "linear_gowalla": gowalla.linear_gowalla,
    "mf_gowalla": gowalla.mf_gowalla,
    "ngcf_code_gowalla": gowalla.ngcf_code_gowalla,
    "ngcf_gowalla": gowalla.ngcf_gowalla,
    "ngcf_lcfn": gowalla.ngcf_lcfn,
}
"""Models that rank all items; ``recsys train`` takes them as it does ``RECIPES``."""


GROUPS: dict[str, tuple[str, ...]] = {
    "for a log of your own, that rank: recsys train NAME data.dataset=./FOLDER (of `recsys prepare`)": tuple(OWN_LOG),
    "for the same log, that find candidates among all items": tuple(OWN_LOG_RETRIEVAL),
    "for published data and the synthetic logs": tuple(sorted(set(RECIPES) - set(OWN_LOG))),
    "for published data, that rank all items": tuple(sorted(set(RETRIEVAL_RECIPES) - set(OWN_LOG_RETRIEVAL))),
}
"""Names of recipes in the order in which they are listed, under their headings."""


def model_name(config: RunConfig | RetrievalRunConfig, declared: str) -> str:
    """The name of a run's model: the recipe's on the recipe's own data, otherwise that of the data.

    Args:
        config: the run's.
        declared: the name of the FeatureSet; empty where there is none.

    >>> from recsys.training.config import DataConfig, RunConfig
    >>> model_name(RunConfig(recipe="din", data=DataConfig(dataset="./prepared/june")), "shop")
    'shop'
    >>> model_name(RunConfig(recipe="din_movielens_1m", data=DataConfig(dataset="movielens_1m")), "movielens_1m")
    'din_movielens_1m'
    >>> model_name(RunConfig(recipe="din_movielens_1m", data=DataConfig(dataset="synthetic")), "movielens_1m")
    'synthetic'
    """
    dataset = config.data.dataset
    if "/" in dataset:
        return declared or Path(dataset).name
    known = RECIPES.get(config.recipe) or RETRIEVAL_RECIPES.get(config.recipe)
    return dataset if known is not None and known().data.dataset != dataset else config.recipe


def recipe(name: str) -> RunConfig:
    """The configuration of that name.

    Raises:
        ConfigError: no such recipe; names the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: {nearest(name, {**RECIPES, **RETRIEVAL_RECIPES})}")
    return RECIPES[name]()
