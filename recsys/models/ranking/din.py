"""Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978).

Legend: ``B`` samples, ``E`` events of the batch, ``D`` key width, ``U`` user width, ``I`` item width,
``S`` one user's recent events, ``C`` candidates, ``H`` hidden units of the head's first layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.ranking.attention import ActivationUnit
from recsys.models.ranking.blocks import ActivationName, mlp
from recsys.models.ranking.network import Reads
from recsys.models.ranking.widths import Widths


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

    reads: ClassVar[Reads] = "events"

    kind: Literal["din"] = "din"
    attention: tuple[int, int] = (80, 40)
    attention_act: ActivationName = "prelu"
    softmax: bool = False
    head: tuple[int, ...] = (200, 80)
    head_act: ActivationName = "dice"
    dropout: float = 0.0


class Din(nn.Module):
    """The network above the embeddings.

    ``user_side`` and ``rank_side`` together equal ``forward`` on one user: they are the two exported graphs.

    Attributes:
        side_dimensions: names of the user side's tensors in the graphs (no feature's name has a dot), and their dynamic
            dimensions.
    """

    def __init__(self, widths: Widths, *, config: DinConfig) -> None:
        super().__init__()
        self.widths = widths
        self.attention = ActivationUnit(
            widths.key, hidden=config.attention, act=config.attention_act, softmax=config.softmax
        )
        self.side_dimensions: Mapping[str, Mapping[int, str]] = {
            **{f"side.attention_{name}": dims for name, dims in self.attention.side_dimensions.items()},
            "side.head_bias": {},
        }
        head_width = widths.user + 3 * widths.key + widths.item
        self.head = mlp(head_width, config.head, act=config.head_act, dropout=config.dropout)

    def forward(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """Logits, [B]. ``offsets`` [B + 1]: sample b's events are keys_ED[offsets[b]:offsets[b + 1]]."""
        interest_BD = self.attention(query_BD, keys_ED, offsets)
        x = torch.cat([user_BU, interest_BD, query_BD, interest_BD * query_BD, item_BI], dim=1)
        logits_B1: Tensor = self.head(x)
        return logits_B1.squeeze(1)

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> tuple[Tensor, ...]:
        """The part of a request that is computed once: what the activation unit needs of the events, and what the user
        contributes to the head's first layer, with its bias, [H]. ``present_S`` is 0 for padding."""
        of_user = self._head_first().weight[:, : self.widths.user]
        head_bias = F.linear(user_1U, of_user, self._head_first().bias).squeeze(0)
        return (*self.attention.user_side(keys_SD, present_S), head_bias)

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C]. ``side``: the tensors of :meth:`user_side`."""
        *of_attention, head_bias = side
        interest_CD = self.attention.attend(query_CD, of_attention)
        of_rest = self._head_first().weight[:, self.widths.user :]
        x = torch.cat([interest_CD, query_CD, interest_CD * query_CD, item_CI], dim=1)
        hidden = torch.addmm(head_bias, x, of_rest.t())
        logits_C1: Tensor = self.head[1:](hidden)
        return logits_C1.squeeze(1)

    def _head_first(self) -> nn.Linear:
        first = self.head[0]
        assert isinstance(first, nn.Linear)
        return first
