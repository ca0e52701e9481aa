"""Matrix factorisation on rows that ids may share, and the BPR loss over all interactions at once.

The score of a user and an item is the dot product of their vectors; an id's vector is made of the K rows that a row
map gives it, so a full table and every hashing method are one code path. Everything is products of fixed sparse
matrices with dense ones, by ``F.embedding_bag`` (FBGEMM's kernel on CPU), and sampled products: no pair's vectors are
copied. For Gowalla's 729,000 training pairs and 64 columns on two idle cores a product takes 2 ms and the scores of all
pairs 4 ms; gathering each pair's three vectors for them takes 300 ms.

Legend: ``N`` users, ``M`` items, ``E`` training pairs, ``D`` width, ``K`` rows per id, ``R`` rows of a table;
``C`` draws per pair; ``P`` and ``Q`` rows and columns of a sparse matrix.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.row_map import Combine, RowMap
from recsys.errors import InvalidInputError, nearest
from recsys.models.retrieval.hops import Hop, Normalization
from recsys.models.retrieval.network import Start
from recsys.models.retrieval.sparse import Half, SparseMatrix, by_columns, sparse_matrix

_COMBINES: tuple[Combine, ...] = ("sum", "product", "concat")


@dataclass(frozen=True, kw_only=True, eq=False)
class IdRows:
    """The rows of all ids of one side.

    Attributes:
        rows_NK: of each id, in [0, num_rows), int64.
        num_rows: of the table.
        combine: how an id's K rows become its vector: their ``sum`` or ``product``, or ``concat``.

    Raises:
        InvalidInputError: a row is outside the table, or an unknown ``combine``.
    """

    rows_NK: Int64Array
    num_rows: int
    combine: Combine = "sum"

    def __post_init__(self) -> None:
        rows = self.rows_NK
        if rows.ndim != 2 or rows.dtype != np.int64 or rows.shape[1] < 1:
            raise InvalidInputError(f"rows are {rows.dtype} {list(rows.shape)}; must be int64 [N, K] with K >= 1")
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise InvalidInputError(f"rows are in [{rows.min()}, {rows.max()}]; allowed: 0 to {self.num_rows - 1}")
        if self.combine not in _COMBINES:
            raise InvalidInputError(f"combine is {self.combine!r}: {nearest(self.combine, _COMBINES)}")

    @property
    def are_own(self) -> bool:
        """True if the row of each id is its own, by index (:func:`full_rows`)."""
        size, lookups = self.rows_NK.shape
        return lookups == 1 and size == self.num_rows and bool((self.rows_NK[:, 0] == np.arange(size)).all())


def full_rows(ids: int) -> IdRows:
    """A row of its own for each of so many ids."""
    return IdRows(rows_NK=np.arange(ids, dtype=np.int64)[:, None], num_rows=ids)


def mapped_rows(row_map: RowMap, keys_N: Int64Array) -> IdRows:
    """Rows that a row map gives these keys, its physical tables one after another in one."""
    first, total = {}, 0
    for table, rows in row_map.table_rows().items():
        first[table], total = total, total + rows
    shift_K = np.array([first[lookup.table] for lookup in row_map.lookups], dtype=np.int64)
    return IdRows(rows_NK=row_map.lookup(keys_N) + shift_K, num_rows=total, combine=row_map.combine)


class IdVectors(nn.Module):
    """Vectors of all ids of one side, made of the K rows that a row map gives each; where each id has a row of its own,
    the rows themselves.

    Without ``std`` rows start uniform by Xavier's rule for the table, as in GraphHash's code, so in +-0.014 for 30,000
    rows and 64 columns; of a product, normal with the K-th root of that deviation, or its gradients would vanish.
    The deviation matters: full-batch matrix factorisation on Gowalla reaches a capped recall@20 of 0.135 from 0.008 and
    of 0.113 from 0.1 (one seed, same rates).

    Args:
        ids: the rows of each id.
        dim: width of an id's vector; with ``concat`` a row has dim / K columns.
        std: if not None, rows start normal, so that an id's vector has this deviation per column for every K.
        weight_RD: rows that the other side looks up in, too; None: this side has rows of its own.

    Raises:
        InvalidInputError: ``dim`` cannot be split in K.
    """

    def __init__(
        self, ids: IdRows, *, dim: int, std: float | None = None, weight_RD: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        rows_NK = torch.from_numpy(ids.rows_NK)
        size, lookups = rows_NK.shape
        if ids.combine == "concat" and dim % lookups:
            raise InvalidInputError(f"dim is {dim}; allowed with {lookups} rows, one after another: a multiple of that")
        width = dim // lookups if ids.combine == "concat" else dim
        self.combine = ids.combine
        self.weight_RD = nn.Parameter(_first_rows(ids, width, std)) if weight_RD is None else weight_RD
        self._maps: list[SparseMatrix] = []
        if ids.are_own:
            return
        everyone = torch.arange(size)
        shape = (size, ids.num_rows)
        if ids.combine == "sum":
            self._maps = [sparse_matrix(everyone.repeat_interleave(lookups), rows_NK.reshape(-1), shape)]
        else:
            self._maps = [sparse_matrix(everyone, rows_NK[:, k], shape) for k in range(lookups)]

    def forward(self) -> Tensor:
        """The vectors, [N, D]."""
        if not self._maps:
            return self.weight_RD
        parts = [map_NR @ self.weight_RD for map_NR in self._maps]
        if self.combine == "concat":
            return torch.cat(parts, dim=1)
        vectors_ND = parts[0]
        for part in parts[1:]:
            vectors_ND = vectors_ND * part
        return vectors_ND


def _first_rows(ids: IdRows, width: int, std: float | None) -> Tensor:
    rows_RD = torch.empty(ids.num_rows, width)
    lookups = ids.rows_NK.shape[1]
    if std is None and ids.combine != "product":
        return nn.init.xavier_uniform_(rows_RD)
    of_vector = math.sqrt(2.0 / (ids.num_rows + width)) if std is None else std
    spread = {"sum": of_vector / math.sqrt(lookups), "product": of_vector ** (1 / lookups), "concat": of_vector}
    return rows_RD.normal_(0.0, spread[ids.combine])


@dataclass(frozen=True, kw_only=True)
class MfConfig:
    """Matrix factorisation.

    Attributes:
        dim: width of an id's vector.
        init_std: deviation of an id's first vector per column; 0: Xavier's rule.
        start: of these vectors: ``random``, or ``svd`` of the training pairs (``svd_start.py``).
    """

    layers: ClassVar[int] = 0

    kind: Literal["mf"] = "mf"
    dim: int = 64
    init_std: float = 0.01
    start: Start = "random"


class NoLayers(nn.Module):
    """The vectors of layer 0 are the final ones."""

    normalization: Normalization = "symmetric"
    of_output = False

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: tuple[Hop, ...]) -> tuple[Tensor, Tensor]:
        """The arguments; there are no hops."""
        return users_ND, items_MD


def mf_net(config: MfConfig) -> NoLayers:
    """Build matrix factorisation's part above the vectors: none."""
    return NoLayers()


class MatrixFactorization(nn.Module):
    """Scores are dot products of the two sides' vectors."""

    def __init__(self, users: IdVectors, items: IdVectors) -> None:
        super().__init__()
        self.users = users
        self.items = items

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users, [N, D], and of all items, [M, D]."""
        return self.users(), self.items()


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """Items that users took, ready for :func:`bpr_loss`.

    Attributes:
        user_E: user of each pair, ascending, int64.
        matrix: users by items, an entry of 1 per pair.
        num_items: of which negatives are drawn.
    """

    user_E: Tensor
    matrix: SparseMatrix
    num_items: int


def training_pairs(user_E: Tensor, item_E: Tensor, *, num_users: int, num_items: int) -> TrainingPairs:
    """Prepare pairs that are in order of users; int64."""
    return TrainingPairs(user_E, sparse_matrix(user_E, item_E, (num_users, num_items)), num_items)


def draw_negatives(pairs: TrainingPairs, generator: torch.Generator) -> Tensor:
    """An item per pair, uniform over all items, [E], int64.

    It may be one that the user took, as in GraphHash's code.
    """
    return torch.randint(pairs.num_items, (len(pairs.user_E),), generator=generator)


@torch.no_grad()
def hardest_negatives(users_ND: Tensor, items_MD: Tensor, pairs: TrainingPairs, drawn_EC: Tensor) -> Tensor:
    """Of the items drawn for each pair, the one that its user scores highest, [E], int64; the first if they tie.

    Late in training nearly every uniform negative scores far below the positive and teaches nothing; the highest of a
    few draws still does (dynamic negative sampling, Zhang et al., SIGIR 2013).

    Args:
        users_ND, items_MD: vectors of all users and items.
        pairs: positives.
        drawn_EC: C items per pair, int64.
    """
    if drawn_EC.shape[1] == 1:
        return drawn_EC[:, 0]
    offsets = pairs.matrix.rows.offsets
    scores_EC = torch.stack([dots(Half(draw_E.int(), offsets), users_ND, items_MD) for draw_E in drawn_EC.t()], dim=1)
    return drawn_EC.gather(1, scores_EC.argmax(dim=1, keepdim=True))[:, 0]


def bpr_loss(
    users_ND: Tensor, items_MD: Tensor, pairs: TrainingPairs, negative_E: Tensor, weight_E: Tensor | None = None
) -> Tensor:
    """Mean over pairs of -log sigmoid(u . i - u . j), j the negative (Rendle et al., UAI 2009; arXiv 1205.2618).

    Args:
        users_ND, items_MD: vectors of all users and items, contiguous.
        pairs: positives.
        negative_E: an item per pair, int64.
        weight_E: of each pair in the mean, float32; None: all weigh the same.
    """
    loss: Tensor = _Bpr.apply(users_ND, items_MD, pairs, negative_E, weight_E)  # type: ignore[no-untyped-call]
    return loss


class _Bpr(torch.autograd.Function):
    """With w_e the loss's derivative by the difference of pair e's scores, the gradients are
    dU = (W+ - W-) V and dV = (W+ - W-)^T U: W+ holds w_e at (user, positive), W- at (user, negative)."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, pairs: TrainingPairs, negative: Tensor, of_pair: Tensor | None
    ) -> Tensor:
        positives = pairs.matrix.rows
        negatives = Half(negative.int(), positives.offsets)
        difference = dots(positives, users, items) - dots(negatives, users, items)
        ctx.save_for_backward(users, items, difference, negative)
        ctx.pairs = pairs
        ctx.share_E = None if of_pair is None else of_pair / of_pair.sum()
        loss_E = F.softplus(-difference)
        return loss_E.mean() if ctx.share_E is None else (loss_E * ctx.share_E).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        users, items, difference, negative = ctx.saved_tensors
        pairs: TrainingPairs = ctx.pairs
        weight = torch.sigmoid(-difference) * (-grad / len(difference) if ctx.share_E is None else -grad * ctx.share_E)
        positives = pairs.matrix.rows
        negatives = Half(negative.int(), positives.offsets)
        by_item, order = by_columns(pairs.user_E, negative, pairs.num_items)
        grad_users = positives.multiply(weight, items) - negatives.multiply(weight, items)
        grad_items = pairs.matrix.columns.multiply(weight[pairs.matrix.order_E], users)
        grad_items -= by_item.multiply(weight[order], users)
        return grad_users, grad_items, None, None, None


def dots(where: Half, left_PD: Tensor, right_QD: Tensor) -> Tensor:
    """left_PD[p] . right_QD[q] of each entry (p, q), [E]; no row is copied."""
    shape = (len(left_PD), len(right_QD))
    zeros = left_PD.new_zeros(len(where.index_E))
    with warnings.catch_warnings():  # torch calls its CSR tensors a beta
        warnings.simplefilter("ignore", UserWarning)
        pattern = torch.sparse_csr_tensor(where.offsets, where.index_E, zeros, shape, check_invariants=False)
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, left_PD, right_QD.t(), beta=0.0)
    return sampled.values()
