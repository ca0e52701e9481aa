"""DIN's target attention over jagged histories: a weighted sum of a sample's events.

The weight of event k for candidate q is an MLP on [q, k, q - k, q * k]. Its first layer is linear
in these four, so it is never built: with W = [Wq, Wk, Wd, Wp],

    W [q, k, q - k, q * k] + b  =  (Wq + Wd) q + b  +  (Wk - Wd) k  +  Wp (q * k),

where the first term is computed once per sample: half the arithmetic per event, and no tensor of
four times the keys' size.

Legend: ``B`` samples, ``E`` events of the batch, ``D`` width, ``H`` hidden units, ``S`` one user's events,
``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.embeddings.jagged import repeat_rows, weighted_sum
from recsys.models.ranking.blocks import ActivationName, activation

FAR = 1e9
"""Larger than any logit or distance."""


class ActivationUnit(nn.Module):
    """Target attention (Zhou et al., KDD 2018, section 4.3).

    Args:
        width: D.
        hidden: units of the two hidden layers.
        act: their activation.
        softmax: normalise a sample's weights to sum to 1, after dividing the logits by sqrt(D), as the
            official code does. The paper does not: the sum of weights is the intensity of interest.
    """

    def __init__(
        self, width: int, *, hidden: tuple[int, int] = (80, 40), act: ActivationName = "prelu", softmax: bool = False
    ) -> None:
        super().__init__()
        self.first = nn.Linear(4 * width, hidden[0])
        self.first_act = activation(act, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.second_act = activation(act, hidden[1])
        self.last = nn.Linear(hidden[1], 1)
        self.softmax = softmax
        self.scale = width**-0.5

    def split_first(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's weights of q, k and q * k, each [H, D]."""
        of_q, of_k, of_difference, of_product = self.first.weight.chunk(4, dim=1)
        return of_q + of_difference, of_k - of_difference, of_product

    def forward(self, query_BD: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        """Interest vectors, [B, D]: zero for a sample without events.

        Args:
            query_BD: the candidates.
            keys_ED: the samples' events, one sample after another.
            offsets: sample b's events are offsets[b]:offsets[b + 1]; [B + 1], int64.
        """
        sample_E = torch.repeat_interleave(
            torch.arange(len(query_BD), device=offsets.device), offsets.diff(), output_size=len(keys_ED)
        )
        of_q, of_k, of_product = self.split_first()
        products_ED = repeat_rows(query_BD, offsets, sample_E) * keys_ED
        hidden = repeat_rows(F.linear(query_BD, of_q, self.first.bias), offsets, sample_E)
        hidden = torch.addmm(torch.addmm(hidden, keys_ED, of_k.t()), products_ED, of_product.t())
        weights_E = self.last(self.second_act(self.second(self.first_act(hidden)))).squeeze(1)
        if self.softmax:
            weights_E = segment_softmax(weights_E * self.scale, sample_E, len(query_BD))
        return weighted_sum(weights_E, keys_ED, offsets, sample_E)

    @property
    def side_dimensions(self) -> Mapping[str, Mapping[int, str]]:
        """Names of the tensors of :meth:`user_side`, and their dynamic dimensions."""
        masked: dict[str, Mapping[int, str]] = {"mask": {0: "S"}} if self.softmax else {}
        return {"weight": {1: "S"}, "bias": {0: "S"}, "keys": {0: "S"}, **masked}

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """Tensors that :meth:`attend` needs of one user's S events. ``present_S`` is 1 for an event and 0 for padding.

        For fixed events the first layer is linear in q, so all S of them are one matrix, [D, S, H], and a bias [S, H].
        The user graph computes them once; a candidate then costs one row of one product. Padding has keys of zero.
        """
        of_q, of_k, of_product = self.split_first()
        # keys * of_product + of_q, as D products of [S, 2] with [2, H]: a quarter of the time of broadcasting twice.
        keys_DS1 = keys_SD.T[:, :, None]
        keys_DS2 = torch.cat([keys_DS1, torch.ones_like(keys_DS1)], dim=2)
        weight_DSH = keys_DS2 @ torch.stack([of_product.T, of_q.T], dim=1)
        bias_SH = F.linear(keys_SD, of_k, self.first.bias)
        side = [weight_DSH, bias_SH, keys_SD * present_S[:, None]]
        return [*side, (present_S - 1.0) * FAR] if self.softmax else side

    def attend(self, query_CD: Tensor, side: Sequence[Tensor], read_CS: Tensor | None = None) -> Tensor:
        """Interest vectors of C candidates for one user, [C, D], given :meth:`user_side` of the events.

        ``read_CS`` is 1 for the events that a candidate reads, else 0; None: it reads all. A user without events, and
        a candidate that reads none, get zeros.
        """
        weight_DSH, bias_SH, keys_SD = side[:3]
        hidden = torch.addmm(bias_SH.flatten(), query_CD, weight_DSH.flatten(1)).view(-1, self.first.out_features)
        weights = self.last(self.second_act(self.second(self.first_act(hidden))))
        weights_CS = weights.view(-1, keys_SD.shape[0])
        if self.softmax:
            logits_CS = weights_CS * self.scale + side[3]
            weights_CS = torch.softmax(logits_CS if read_CS is None else logits_CS + (read_CS - 1.0) * FAR, dim=1)
        interest_CD: Tensor = (weights_CS if read_CS is None else weights_CS * read_CS) @ keys_SD
        return interest_CD


def segment_softmax(logits_E: Tensor, sample_E: Tensor, samples: int) -> Tensor:
    """Softmax within each sample; [E]."""
    largest = torch.full((samples,), -torch.inf, device=logits_E.device, dtype=logits_E.dtype)
    largest = largest.scatter_reduce(0, sample_E, logits_E.detach(), "amax")
    powers_E = torch.exp(logits_E - largest[sample_E])
    total = torch.zeros_like(largest).index_add(0, sample_E, powers_E)
    return powers_E / total[sample_E]
