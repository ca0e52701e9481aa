"""Blocks that read a whole history for a candidate: SDIM's, and those it is compared with.

A block answers in training for jagged histories over a batch's distinct events (``forward``), and for one user's
candidates in two halves (``user_side``, ``rank_side``), which are exported.

Legend: ``B`` samples, ``E`` events of the batch, ``N`` distinct events, ``D`` key width, ``S`` one user's events,
``C`` candidates, ``H`` hidden units of the activation unit, ``K`` hash directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.embeddings.jagged import gather_rows
from recsys.models.ranking.attention import FAR, ActivationUnit
from recsys.models.ranking.jagged_events import chosen_events, nearest_events, sum_of_rows
from recsys.models.ranking.signatures import Signatures


class LongBlock(Protocol):
    """A block over the whole history, in training and in two exported halves."""

    @property
    def side_dimensions(self) -> Mapping[str, Mapping[int, str]]:
        """Names of the user side's tensors, and their dynamic dimensions."""
        ...

    def __call__(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """Interest vectors of B samples, [B, D], zero for one without events.

        ``index_E`` says which of the distinct events each event is, ``offsets`` [B + 1] where each sample's begin.
        """
        ...

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """Tensors computed once for a user, in the order of ``side_dimensions``. ``present_S`` is 0 for padding."""
        ...

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """Interest vectors of C candidates, [C, D]."""
        ...


class SdimBlock(nn.Module):
    """(1 / G) sum_g l2(sum of the events that share signature g with the candidate); an empty bucket is zero."""

    side_dimensions: Mapping[str, Mapping[int, str]] = {"buckets": {}}

    def __init__(self, signatures: Signatures) -> None:
        super().__init__()
        self.signatures = signatures

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        interest_BD: Tensor = self.signatures(query_BD, keys_ND, index_E, offsets)
        return interest_BD

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """See :class:`LongBlock`."""
        return self.side_of(self.signatures.bucket_sums(keys_SD, present_S))

    def side_of(self, sums: Tensor) -> list[Tensor]:
        """The user side, given :meth:`Signatures.bucket_sums`: that is the additive step, this normalises it."""
        norm = torch.linalg.vector_norm(sums, dim=1, keepdim=True).clamp_min(1e-12)
        return [sums / (norm * self.signatures.signatures)]

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        return self.signatures.attend_buckets(query_CD, side[0])


class MeanBlock(nn.Module):
    """Mean of the events: the candidate plays no part."""

    side_dimensions: Mapping[str, Mapping[int, str]] = {"mean": {}}

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        return sum_of_rows(keys_ND, index_E, offsets) / offsets.diff().clamp_min(1)[:, None]

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """See :class:`LongBlock`."""
        return [(present_S @ keys_SD) / present_S.sum().clamp_min(1.0)]

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        return side[0].expand(query_CD.shape[0], -1)


class AttentionBlock(nn.Module):
    """DIN's target attention over everything."""

    def __init__(self, unit: ActivationUnit) -> None:
        super().__init__()
        self.unit = unit
        self.side_dimensions = unit.side_dimensions

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        interest_BD: Tensor = self.unit(query_BD, gather_rows(keys_ND, index_E), offsets)
        return interest_BD

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """See :class:`LongBlock`."""
        return self.unit.user_side(keys_SD, present_S)

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        return self.unit.attend(query_CD, side)


class SimHardBlock(nn.Module):
    """Target attention over the events of the candidate's category (Pi et al., CIKM 2020, section 3.2, hard search).

    A network sees vectors, not ids: two categories are the same if the first two numbers of their vectors are, which
    come from one row of one table.
    """

    def __init__(self, unit: ActivationUnit, *, category: slice) -> None:
        super().__init__()
        self.unit = unit
        self.side_dimensions: Mapping[str, Mapping[int, str]] = {**unit.side_dimensions, "category": {0: "S"}}
        self.category = slice(category.start, min(category.start + 2, category.stop))

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        events = keys_ND.detach()[:, self.category].contiguous()[index_E]
        wanted = query_BD.detach()[:, self.category].contiguous()
        sample_E = torch.repeat_interleave(
            torch.arange(len(query_BD), device=offsets.device), offsets.diff(), output_size=len(index_E)
        )
        chosen, kept = chosen_events((events == wanted[sample_E]).all(dim=1), offsets)
        interest_BD: Tensor = self.unit(query_BD, gather_rows(keys_ND, index_E[chosen]), kept)
        return interest_BD

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """See :class:`LongBlock`."""
        return [*self.unit.user_side(keys_SD, present_S), keys_SD[:, self.category]]

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """See :class:`LongBlock`. Costs as much as attention over everything."""
        *of_unit, category_S2 = side
        same = query_CD[:, None, self.category] == category_S2[None]
        return self.unit.attend(query_CD, of_unit, same.all(dim=2).to(query_CD.dtype))


class EtaBlock(nn.Module):
    """Target attention over the events nearest by Hamming distance of hash codes (Chen et al., arXiv 2108.04468)."""

    def __init__(self, unit: ActivationUnit, *, signatures: Signatures, nearest: int) -> None:
        super().__init__()
        self.unit, self.signatures, self.nearest = unit, signatures, nearest
        own: dict[str, Mapping[int, str]] = {"signs": {1: "S"}, "order": {0: "S"}}
        self.side_dimensions: Mapping[str, Mapping[int, str]] = {**unit.side_dimensions, **own}

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """See :class:`LongBlock`."""
        sample_E = torch.repeat_interleave(
            torch.arange(len(query_BD), device=offsets.device), offsets.diff(), output_size=len(index_E)
        )
        differ_E = self.signatures.codes(keys_ND)[index_E] ^ self.signatures.codes(query_BD)[sample_E]
        chosen_E = nearest_events(_ones_in(differ_E), offsets, self.nearest, largest=len(self.signatures.directions_KD))
        chosen, kept = chosen_events(chosen_E, offsets)
        interest_BD: Tensor = self.unit(query_BD, gather_rows(keys_ND, index_E[chosen]), kept)
        return interest_BD

    def user_side(self, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        """See :class:`LongBlock`."""
        signs_SK, length = self._plus_minus(keys_SD), keys_SD.shape[0]
        age_S = torch.arange(length, 0, -1, device=keys_SD.device).to(keys_SD.dtype)
        # One number to sort by: first the distance, then the age. Whole numbers below 2^24 are exact in float32. With K
        # directions of which A agree less those that differ, the distance is (K - A) / 2: the product makes -A / 2.
        step = (length + 1) / 2
        order_S = signs_SK.shape[1] * step + age_S + (1.0 - present_S) * FAR
        return [*self.unit.user_side(keys_SD, present_S), -step * signs_SK.T, order_S]

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor) -> Tensor:
        """See :class:`LongBlock`. Costs as much as attention over everything, and a sort."""
        *of_unit, signs_KS, order_S = side
        order_CS = torch.addmm(order_S, self._plus_minus(query_CD), signs_KS)
        padded = F.pad(order_CS, (0, self.nearest), value=2 * FAR)
        last_C = padded.topk(self.nearest, dim=1, largest=False).values[:, -1:]
        return self.unit.attend(query_CD, of_unit, (order_CS <= last_C).to(query_CD.dtype))

    def _plus_minus(self, vectors_ND: Tensor) -> Tensor:
        """Signs as 1 and -1, of the vectors' dtype, [N, K]: their product counts agreements less differences."""
        return self.signatures.signs(vectors_ND).to(vectors_ND.dtype) * 2.0 - 1.0


def _ones_in(codes_E: Tensor) -> Tensor:
    """Number of bits set in non-negative int64 values (Hacker's Delight, 2nd ed., figure 5-2)."""
    x = codes_E - ((codes_E >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    # Codes have at most 62 bits, so the product's highest byte, the count, leaves the sign alone.
    return (x * 0x0101010101010101) >> 56
