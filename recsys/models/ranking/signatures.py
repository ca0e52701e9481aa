"""Hash signatures of vectors, and SDIM's attention by collisions of them (Cao et al., CIKM 2022).

A vector's code is the signs of its products with fixed random directions; each ``bits`` of them are one signature.
Two vectors at angle a share a signature with probability (1 - a / pi) ^ bits, so a candidate's *bucket*, the sum
of the events that share its signature, is a sample of a target attention with those probabilities as weights. It
needs no weight per event and candidate, and the sums of all buckets are computed once per user.

Products are taken in float64 from float32 vectors: a sign then does not depend on the order in which a library adds
them up, so training, export and any other implementation agree on the bucket.

Legend: ``B`` samples, ``E`` events of the batch, ``N`` distinct events, ``D`` width, ``G`` signatures, ``K`` = G * bits
directions, ``S`` one user's events, ``C`` candidates, ``M`` pairs of an event and a signature that match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.ranking.jagged_events import mean_of_units, positions_of, sum_of_rows

MOST_DIRECTIONS = 62
"""A code is one int64."""


def check_signatures(signatures: int, bits: int, hash_seed: int) -> None:
    """Refuse settings that no :class:`Signatures` has.

    Raises:
        ConfigError: one is out of range.
    """
    for name, value, least, most in (
        ("signatures", signatures, 1, MOST_DIRECTIONS), ("bits", bits, 1, 10), ("hash_seed", hash_seed, 0, None),
    ):  # fmt: skip
        if value < least or (most is not None and value > most):
            allowed = f"{least} or more" if most is None else f"{least} to {most}"
            raise ConfigError(f"model.{name} is {value}; allowed: {allowed}")
    if signatures * bits > MOST_DIRECTIONS:
        raise ConfigError(f"model.signatures * model.bits is {signatures} * {bits}; allowed: up to {MOST_DIRECTIONS}")


class Matches(NamedTuple):
    """Distinct events in order of (signature, sample), [M], and where each bucket begins, [G * B + 1]; int32."""

    index_M: Tensor
    offsets: Tensor


class Signatures(nn.Module):
    """Fixed random directions, a buffer of checkpoints and bundles.

    Args:
        width: D.
        signatures: G.
        bits: of each signature.
        seed: of the directions, N(0, 1).
        ignored: columns that are not hashed, where the directions are zero.
    """

    directions_KD: Tensor

    def __init__(self, width: int, *, signatures: int, bits: int, seed: int, ignored: Sequence[slice] = ()) -> None:
        super().__init__()
        self.signatures, self.bits = signatures, bits
        generator = torch.Generator().manual_seed(seed)
        directions_KD = torch.randn(signatures * bits, width, generator=generator)
        for columns in ignored:
            directions_KD[:, columns] = 0.0
        self.register_buffer("directions_KD", directions_KD)

    @property
    def buckets(self) -> int:
        """Number of buckets of each signature, 2 ^ bits."""
        return int(2**self.bits)

    @property
    def shape(self) -> tuple[int, int]:
        """Of :meth:`bucket_sums`: rows, signature by signature, and their width."""
        return self.signatures * self.buckets, self.directions_KD.shape[1]

    def signs(self, vectors_ND: Tensor) -> Tensor:
        """[N, K], bool: whether each product is positive; a zero vector has none. No gradient."""
        products: Tensor = vectors_ND.detach().double() @ self.directions_KD.double().T
        return products > 0

    def codes(self, vectors_ND: Tensor) -> Tensor:
        """All signs of a vector as one integer, the first the lowest bit; [N], int64."""
        signs_NK = self.signs(vectors_ND).double()
        # In two halves of the bits, because float64 holds whole numbers up to 2^53.
        half = (self.signatures * self.bits + 1) // 2
        low_N, high_N = (_as_number(part) for part in (signs_NK[:, :half], signs_NK[:, half:]))
        return low_N | (high_N << half)

    def buckets_of(self, vectors_ND: Tensor) -> Tensor:
        """Number of the bucket of each signature, from 0 to 2 ^ bits - 1; [N, G], int64."""
        signs = self.signs(vectors_ND).view(-1, self.signatures, self.bits)
        return (signs * _powers(self.bits, vectors_ND.device)).sum(dim=2)

    def members(self, vectors_ND: Tensor) -> Tensor:
        """One-hot buckets, of the vectors' dtype, [N, G * 2 ^ bits].

        One product for each signature: the set bits that a bucket has too, less those that it has not, are as many as
        the bucket has if the vector is in it, and fewer otherwise. A sixth of the time of comparing numbers of buckets.
        """
        has = [[1 if (bucket >> bit) & 1 else -1 for bucket in range(self.buckets)] for bit in range(self.bits)]
        signs = self.signs(vectors_ND).to(vectors_ND.dtype).view(-1, self.bits)
        others = torch.tensor([1 - bucket.bit_count() for bucket in range(self.buckets)]).to(signs)
        return torch.relu(torch.addmm(others, signs, torch.tensor(has).to(signs))).view(-1, self.shape[0])

    def bucket_sums(self, keys_SD: Tensor, present_S: Tensor) -> Tensor:
        """Sums of one user's events by bucket, of :attr:`shape`: additive, so new events can be added to them.

        ``present_S`` is 1 for an event and 0 for padding.
        """
        return self.members(keys_SD).T @ (keys_SD * present_S[:, None])

    def attend_buckets(self, query_CD: Tensor, sums: Tensor) -> Tensor:
        """Interest vectors of C candidates, [C, D], given :meth:`bucket_sums`, normalised, over G: no event is read."""
        return self.members(query_CD) @ sums

    def forward(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Tensor:
        """Interest vectors of B samples, [B, D], zero for one without events.

        Args:
            query_BD: the candidates.
            keys_ND: vectors of the distinct events.
            index_E: which of them each event is, one sample after another.
            offsets: sample b's events are offsets[b]:offsets[b + 1]; [B + 1], int64.
        """
        pairs = self.matches(query_BD, keys_ND, index_E, offsets)
        sums = sum_of_rows(keys_ND, pairs.index_M, pairs.offsets)
        return mean_of_units(sums.view(self.signatures, len(query_BD), -1))

    def matches(self, query_BD: Tensor, keys_ND: Tensor, index_E: Tensor, offsets: Tensor) -> Matches:
        """The events in each candidate's buckets; arguments as of :meth:`forward`."""
        samples_E = torch.repeat_interleave(self.codes(query_BD), offsets.diff(), output_size=len(index_E))
        differ_E = self.codes(keys_ND)[index_E] ^ samples_E
        index_E = index_E.int()
        index, ends, total = [], [offsets[:1].int()], 0
        # As many signatures at a time as 16 bits hold: a quarter of the memory of an int64 is read for each.
        at_once = max(1, 15 // self.bits)
        for first in range(0, self.signatures, at_once):
            part_E = ((differ_E >> (first * self.bits)) & 0x7FFF).to(torch.int16)
            for place in range(min(at_once, self.signatures - first)):
                events_M = positions_of((part_E & ((self.buckets - 1) << (place * self.bits))) == 0)
                index.append(index_E[events_M])
                ends.append((torch.searchsorted(events_M, offsets[1:]) + total).int())
                total += len(events_M)
        return Matches(torch.cat(index), torch.cat(ends))


def _as_number(bits_NK: Tensor) -> Tensor:
    return (bits_NK @ _powers(bits_NK.shape[1], bits_NK.device).double()).long()


def _powers(count: int, device: torch.device) -> Tensor:
    return 1 << torch.arange(count, device=device)
