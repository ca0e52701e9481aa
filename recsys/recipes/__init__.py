"""Full runs as functions that return one configuration.

A recipe is the whole truth about a run: ``recsys train NAME`` runs it, ``recsys train NAME --show``
prints it, and ``path=value`` after the name changes it.
"""

from __future__ import annotations

from collections.abc import Callable

from recsys.errors import ConfigError, nearest
from recsys.recipes import frappe, movielens, own_log, synthetic
from recsys.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "dcn_frappe": frappe.dcn_frappe,
    "dcn_movielens_ctr": movielens.dcn_movielens_ctr,
    "din": own_log.din,
    "din_movielens_1m": movielens.din_movielens_1m,
    "din_movielens_1m_demo": movielens.din_movielens_1m_demo,
    "din_synthetic": synthetic.din_synthetic,
}


def recipe(name: str) -> RunConfig:
    """The configuration of that name.

    Raises:
        ConfigError: no such recipe; names the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    return RECIPES[name]()
