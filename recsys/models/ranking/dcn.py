"""DCN-V2 (Wang et al., WWW 2021, arXiv 2008.13535): explicit feature crosses, and an MLP behind or beside them.

It reads no history: a FeatureSet may do without one, and one that has it is read without it.

Legend: ``B`` samples, ``E`` events of the batch, ``D`` width of the candidate's id vector, ``U`` user width,
``I`` item width, ``N`` = U + D + I, ``S`` one user's recent events, ``C`` candidates, ``H`` hidden units of the
MLP's first layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.ranking.blocks import ActivationName, mlp
from recsys.models.ranking.network import Reads
from recsys.models.ranking.widths import Widths


@dataclass(frozen=True, kw_only=True)
class DcnConfig:
    """DCN-V2's hyper-parameters.

    Attributes:
        kind: which model this configures.
        cross_layers: a stack of L makes crosses of up to L + 1 features.
        head: hidden units of the MLP.
        head_act: its activation: ``relu``, ``prelu`` or ``dice``.
        batch_norm: normalise the MLP's hidden units before their activation.
        dropout: in the MLP, in training.
        structure: the MLP reads what the cross layers make (``stacked``), or what they read (``parallel``; one
            linear layer then joins the two). The paper's figure 1.

    Raises:
        ConfigError: there is no cross layer.
    """

    reads: ClassVar[Reads] = "nothing"

    kind: Literal["dcn"] = "dcn"
    cross_layers: int = 1
    head: tuple[int, ...] = (192,)
    head_act: ActivationName = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    structure: Literal["stacked", "parallel"] = "stacked"

    def __post_init__(self) -> None:
        if not self.cross_layers >= 1:
            raise ConfigError(f"model.cross_layers is {self.cross_layers}; allowed: 1 or more")


class DcnUserSide(NamedTuple):
    """Everything about a request that does not depend on the candidate.

    Attributes:
        user: the user's part of the features, [U].
        first_bias: what the user contributes to the layers that read the features, with their biases: the first
            cross layer [N], and of a parallel MLP the first layer [N + H].
    """

    user: Tensor
    first_bias: Tensor


class Dcn(nn.Module):
    """The network above the embeddings, on the features x_0 = [user, candidate's id, item's other features].

    ``user_side`` and ``rank_side`` together equal ``forward`` on one user: they are the two exported graphs.
    """

    side_dimensions: Mapping[str, Mapping[int, str]] = {"side.user": {}, "side.first_bias": {}}
    """Names of ``DcnUserSide`` in the graphs (no feature's name has a dot); none of its dimensions is dynamic."""

    def __init__(self, widths: Widths, *, config: DcnConfig) -> None:
        super().__init__()
        self.widths = widths
        self.parallel = config.structure == "parallel"
        width = widths.user + widths.key + widths.item
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        deep = mlp(width, config.head, act=config.head_act, dropout=config.dropout, batch_norm=config.batch_norm)
        # Without its last layer, which also reads what the cross layers make where the two are parallel.
        self.deep = nn.Sequential(*list(deep)[:-1])
        deep_width = config.head[-1] if config.head else width
        self.output = nn.Linear(width + deep_width if self.parallel else deep_width, 1)

    def forward(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """Logits, [B]. The history, ``keys_ED`` and ``offsets``, is not read."""
        x0_BN = torch.cat([user_BU, query_BD, item_BI], dim=1)
        weight, bias = self._first()
        return self._logits(x0_BN, F.linear(x0_BN, weight, bias))

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> DcnUserSide:
        """The part of a request that is computed once. The history, ``keys_SD`` and ``present_S``, is not read."""
        weight, bias = self._first()
        first_bias = F.linear(user_1U, weight[:, : self.widths.user], bias)
        return DcnUserSide(user_1U.squeeze(0), first_bias.squeeze(0))

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C]. ``side``: the tensors of a ``DcnUserSide``."""
        user = DcnUserSide(*side)
        weight, _ = self._first()
        candidate = torch.cat([query_CD, item_CI], dim=1)
        x0_CN = torch.cat([user.user.expand(candidate.shape[0], -1), candidate], dim=1)
        return self._logits(x0_CN, torch.addmm(user.first_bias, candidate, weight[:, self.widths.user :].t()))

    def _first(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layers that read x_0, as one matrix product."""
        first = [self.cross[0], *(list(self.deep)[:1] if self.parallel else ())]
        linear = [layer for layer in first if isinstance(layer, nn.Linear)]
        assert len(linear) == len(first)
        biases: list[Tensor] = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in linear
        ]
        return torch.cat([layer.weight for layer in linear]), torch.cat(biases)

    def _logits(self, x0_BN: Tensor, first: Tensor) -> Tensor:
        """``first``: the cross layer's product with x_0, [B, N], and the parallel MLP's behind it, [B, N + H]."""
        width = x0_BN.shape[1]
        x_BN = x0_BN * first[:, :width] + x0_BN
        for layer in self.cross[1:]:
            x_BN = x0_BN * layer(x_BN) + x_BN
        if not self.parallel:
            x = self.deep(x_BN)
        elif len(self.deep):
            x = torch.cat([x_BN, self.deep[1:](first[:, width:])], dim=1)
        else:
            x = torch.cat([x_BN, x0_BN], dim=1)
        logits_B1: Tensor = self.output(x)
        return logits_B1.squeeze(1)
