"""Causal self-attention over a history, by what its events are, how many events lie between them, and how much time.

An event reads itself and those before it. Places and times are told as *differences* between two events: a bias of the
logits by the number of events between them, as in T5 (Raffel et al., JMLR 2020), and one by the time, as in HSTU (Zhai
et al., ICML 2024, arXiv 2402.17152, section 3.2). So one pass over a sequence answers for each of its beginnings what a
server would, whose history begins elsewhere; and padding behind the events changes nothing.

Legend: ``B`` sequences, ``L`` events of each, ``D`` width, ``H`` heads, ``K`` columns of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAP_BUCKETS = 26
"""Buckets of the time between two events: below 1 s, then for each doubling, the last for 2^24 s (194 days) or more."""


def gap_buckets(time_ms_BL: Tensor) -> Tensor:
    """Bucket of the time from each event (last dimension) to each other one that reads it, [B, L, L], int64.

    >>> gap_buckets(torch.tensor([[0, 999, 2_000]])).tolist()
    [[[0, 0, 0], [0, 0, 0], [2, 1, 0]]]
    """
    gap_BLL = time_ms_BL[:, :, None] - time_ms_BL[:, None, :]
    bounds = 1000 * 2 ** torch.arange(GAP_BUCKETS - 1, device=time_ms_BL.device)
    return (gap_BLL[..., None] >= bounds).sum(dim=-1)


class Block(nn.Module):
    """Attention, then two layers event by event; each reads the normalised sum of all before (pre-norm).

    Args:
        dim: D.
        heads: H, a divisor of it.
        window: the most events of a sequence.
        time_gaps: with a bias by time.
        dropout: of weights and of what is added.
    """

    def __init__(self, dim: int, *, heads: int, window: int, time_gaps: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before = nn.LayerNorm(dim)
        self.projections = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.between = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)
        self.of_places = nn.Parameter(torch.zeros(window, heads))
        self.of_gaps = nn.Parameter(torch.zeros(GAP_BUCKETS, heads)) if time_gaps else None

    def forward(self, x_BLD: Tensor, bucket_BLL: Tensor | None = None) -> Tensor:
        """[B, L, D] to the same shape; ``bucket_BLL``: of :func:`gap_buckets`, for a block with a bias by time."""
        mixed_BLD = self.out(self.attend(self.projections(self.before(x_BLD)), bucket_BLL))
        x_BLD = x_BLD + F.dropout(mixed_BLD, self.dropout, self.training)
        wide = F.relu(self.wide(self.between(x_BLD)))
        return x_BLD + F.dropout(self.narrow(wide), self.dropout, self.training)

    def attend(self, projected: Tensor, bucket_BLL: Tensor | None) -> Tensor:
        """Mixed values of all heads, [B, L, D], of queries, keys and values beside each other, [B, L, 3 D]."""
        length = projected.shape[1]
        by_head = (projected.shape[0], length, 3, self.heads, -1)
        query, key, value = projected.view(by_head).permute(2, 0, 3, 1, 4)
        logits = (query @ key.transpose(2, 3)) * query.shape[-1] ** -0.5 + self.bias(length, bucket_BLL)
        weights = F.dropout(torch.softmax(logits, dim=-1), self.dropout, self.training)
        mixed_BLD: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return mixed_BLD

    def bias(self, length: int, bucket_BLL: Tensor | None) -> Tensor:
        """Biases of the logits, [1 or B, H, L, L]; -inf for events that come later."""
        place = torch.arange(length, device=self.of_places.device)
        distance_LL = place[:, None] - place[None, :]
        bias_HLL = self.of_places[distance_LL.clamp_min(0)].permute(2, 0, 1)
        bias = bias_HLL.masked_fill(distance_LL < 0, -torch.inf)[None]
        if self.of_gaps is None or bucket_BLL is None:
            return bias
        return bias + F.embedding(bucket_BLL, self.of_gaps).permute(0, 3, 1, 2)
