"""Every model by the name that ``model.kind`` takes. A new one is its file, a line here, and a recipe.

An entry is a model's configuration and what builds its network. The configuration says what the network reads
(``reads``, ``layers``); the network says how it exports (``side_dimensions``; ``StatefulNet`` if it goes on from a
state) and if ``recsys explain`` can show its attention (``FieldAttentionNet``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recsys.models.ranking.autoint import AutoInt, AutoIntConfig
from recsys.models.ranking.dcn import Dcn, DcnConfig
from recsys.models.ranking.din import Din, DinConfig
from recsys.models.ranking.network import RankingConfig, RankingNet
from recsys.models.ranking.sdim import Sdim, SdimConfig
from recsys.models.ranking.widths import Widths
from recsys.models.retrieval.lightgcn import LightGcnConfig, lightgcn_net
from recsys.models.retrieval.linear import LinearConfig
from recsys.models.retrieval.mf import MfConfig, mf_net
from recsys.models.retrieval.network import Layers, RetrievalConfig, RetrievalNet
from recsys.models.retrieval.ngcf import NgcfConfig, ngcf_net
from recsys.models.retrieval.two_tower.config import TwoTowerConfig


@dataclass(frozen=True)
class RankingKind:
    """A ranking model.

    Attributes:
        config: its configuration.
        net: ``net(widths, config=...)``, a torch module.
    """

    config: type[RankingConfig]
    net: Callable[..., RankingNet]


@dataclass(frozen=True)
class RetrievalKind:
    """A model that ranks all items.

    Attributes:
        config: its configuration.
        net: ``net(config)``, a torch module above a vector for each user and item; None: it has no such vectors.
        learns_from: ``pairs``, step by step; ``closed_form``, without steps; ``sequences``, the histories of users.
    """

    config: type[RetrievalConfig]
    net: Callable[..., RetrievalNet] | None
    learns_from: Literal["pairs", "closed_form", "sequences"] = "pairs"


RANKING_MODELS: dict[str, RankingKind] = {
    "autoint": RankingKind(AutoIntConfig, AutoInt),
    "din": RankingKind(DinConfig, Din),
    "dcn": RankingKind(DcnConfig, Dcn),
    "sdim": RankingKind(SdimConfig, Sdim),
}

RETRIEVAL_MODELS: dict[str, RetrievalKind] = {
    "mf": RetrievalKind(MfConfig, mf_net),
    "lightgcn": RetrievalKind(LightGcnConfig, lightgcn_net),
    "ngcf": RetrievalKind(NgcfConfig, ngcf_net),
    "linear": RetrievalKind(LinearConfig, None, "closed_form"),
    "two_tower": RetrievalKind(TwoTowerConfig, None, "sequences"),
}

CLOSED_FORMS = tuple(name for name, kind in RETRIEVAL_MODELS.items() if kind.learns_from == "closed_form")
"""Models without a network: nothing is trained step by step, and users are known by their history."""

SEQUENCE_MODELS = tuple(name for name, kind in RETRIEVAL_MODELS.items() if kind.learns_from == "sequences")
"""Models that are trained on histories, and know users by them."""


def make_net(widths: Widths, *, config: RankingConfig) -> RankingNet:
    """Build the network that a ranking model's configuration describes, for inputs of these widths."""
    return RANKING_MODELS[config.kind].net(widths, config=config)


def make_layers(config: RetrievalConfig) -> Layers:
    """Build what a retrieval model's configuration describes above the vectors of layer 0."""
    net = RETRIEVAL_MODELS[config.kind].net
    assert net is not None, "it has no vectors of layer 0"
    return Layers(net(config), hops=config.layers)
