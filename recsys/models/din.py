"""Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978).

Legend: ``B`` samples, ``E`` events of the batch, ``D`` key width, ``U`` user width, ``I`` item width,
``S`` one user's recent events, ``C`` candidates, ``H`` hidden units of the head's first layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.attention import ActivationUnit
from recsys.models.blocks import ActivationName, mlp
from recsys.models.widths import Widths


@dataclass(frozen=True, kw_only=True)
class DinConfig:
    """DIN's hyper-parameters.

    Attributes:
        kind: which model this configures.
        attention: hidden units of the activation unit.
        attention_act: its activation: ``prelu`` (the fastest to train and to serve) or ``dice``.
        softmax: normalise the attention weights (the official code) or not (the paper).
        head: hidden units of the MLP on [user, interest, candidate, interest * candidate, item].
        head_act: its activation: ``dice``, ``prelu`` or ``relu``.
        dropout: in the head, in training.
    """

    kind: Literal["din"] = "din"
    attention: tuple[int, int] = (80, 40)
    attention_act: ActivationName = "prelu"
    softmax: bool = False
    head: tuple[int, ...] = (200, 80)
    head_act: ActivationName = "dice"
    dropout: float = 0.0


class UserSide(NamedTuple):
    """Everything about a request that does not depend on the candidate.

    Attributes:
        attention_weight, attention_bias: the activation unit's first layer for this user's events,
            [D, S * hidden] and [S * hidden].
        keys: the events, [S, D].
        present: 1 for an event, 0 for padding, [S].
        head_bias: what the user contributes to the head's first layer, with its bias, [H].
    """

    attention_weight: Tensor
    attention_bias: Tensor
    keys: Tensor
    present: Tensor
    head_bias: Tensor


class Din(nn.Module):
    """The network above the embeddings.

    ``user_side`` and ``rank_side`` together equal ``forward`` on one user: they are the two exported graphs.
    """

    side_dimensions: Mapping[str, Mapping[int, str]] = {
        "side.attention_weight": {1: "SH"},
        "side.attention_bias": {0: "SH"},
        "side.keys": {0: "S"},
        "side.present": {0: "S"},
        "side.head_bias": {},
    }
    """Names of ``UserSide`` in the graphs (no feature's name has a dot) and its dynamic dimensions.

    S * hidden is one of its own: an exporter cannot divide a named one.
    """

    def __init__(self, widths: Widths, *, config: DinConfig) -> None:
        super().__init__()
        self.widths = widths
        self.attention = ActivationUnit(
            widths.key, hidden=config.attention, act=config.attention_act, softmax=config.softmax
        )
        head_width = widths.user + 3 * widths.key + widths.item
        self.head = mlp(head_width, config.head, act=config.head_act, dropout=config.dropout)

    def forward(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """Logits, [B]. ``offsets`` [B + 1]: sample b's events are keys_ED[offsets[b]:offsets[b + 1]]."""
        interest_BD = self.attention(query_BD, keys_ED, offsets)
        x = torch.cat([user_BU, interest_BD, query_BD, interest_BD * query_BD, item_BI], dim=1)
        logits_B1: Tensor = self.head(x)
        return logits_B1.squeeze(1)

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> UserSide:
        """The part of a request that is computed once. ``present_S`` is 0 for padding."""
        weight, bias = self.attention.fold(keys_SD)
        of_user = self._head_first().weight[:, : self.widths.user]
        head_bias = F.linear(user_1U, of_user, self._head_first().bias).squeeze(0)
        return UserSide(weight, bias, keys_SD, present_S, head_bias)

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C]. ``side``: the tensors of a ``UserSide``."""
        user = UserSide(*side)
        folded = (user.attention_weight, user.attention_bias)
        interest_CD = self.attention.attend(query_CD, folded, user.keys, user.present)
        of_rest = self._head_first().weight[:, self.widths.user :]
        x = torch.cat([interest_CD, query_CD, interest_CD * query_CD, item_CI], dim=1)
        hidden = torch.addmm(user.head_bias, x, of_rest.t())
        logits_C1: Tensor = self.head[1:](hidden)
        return logits_C1.squeeze(1)

    def _head_first(self) -> nn.Linear:
        first = self.head[0]
        assert isinstance(first, nn.Linear)
        return first
