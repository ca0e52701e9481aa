"""Linear filtering of a user's history: a closed form, and how an index serves it.

A user with the 0/1 history ``r`` scores items by

    s = r D^-d (P + a V V') (I - T P) D^d

P says which items are taken by the same users (``spectrum.py``), V are its first eigenvectors with the eigenvalues L,
D the items' numbers of pairs. V V' is the ideal low-pass filter of GF-CF (Shen et al., CIKM 2021; arXiv 2108.07567),
which takes d = 1/2 for it and 0 for P; I - T P is a step of the sharpening of BSPM (Choi et al., SIGIR 2023; arXiv
2211.09324), by Euler's method. Nothing is learnt by descent, and nothing of a user but the history.

P P is dense, and never made: on what V leaves, whose eigenvalues lie between 0 and the smallest of L, c, it counts as
c P. What is served then has two parts,

    s = (1 - T c) r D^-d P D^d  +  r D^-d V (a (I - T L) - T L (L - c)) V' D^d

Of the first, which is sparse, each item's strongest neighbours; the second, which is exact, as a row of each item of
the history, summed, and a scan of ``D^d V``.

Legend: ``M`` items, ``B`` users, ``K`` columns, ``J`` neighbours of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from recsys.errors import ConfigError
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.models.retrieval.spectrum import ItemFilter, basis_columns

_BLOCK_ENTRIES = 2_000_000
"""Products of two entries that a block of neighbours sums up, about: 24 MB."""

_LEAST = 0.02
"""Least size of an eigenvector's factor beside P. Of items without neighbours alone does it matter that it is not 0."""

OPEN = ("ranks", "user_degrees", "degrees", "low_pass", "sharpen", "neighbours", "half_life_events", "half_life_days")
"""Settings with values to choose from."""

CHOSEN = ("rank", "user_degree", "degree", "low_pass", "sharpen", "neighbours", "half_life_events", "half_life_days")
"""Name of a value of each."""

HALVED = ("half_life_events", "half_life_days")
"""Those of a history's weights."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A closed form: settings with several values are chosen on validation, one after another.

    Attributes:
        ranks: columns of the low-rank part.
        user_degrees: u, the power of a user's number of pairs by which each pair is divided in P; between 0, where
            pairs of users who took much count as much as others, and 1/2.
        degrees: d, the power of an item's number of pairs that its scores are multiplied with, and what it adds to
            others divided by; between 0, where the popular are found less, and 1/2.
        low_pass: weight of the low-rank part (GF-CF's alpha).
        sharpen: T of the sharpening (BSPM's time); 0: none.
        neighbours: strongest neighbours of an item that are served; 0: none.
        actions: of each attribute of the history with few values, weights by value, the share of such events that are
            positives, are tried beside weights of 1; of a log that has events beside pairs.
        half_life_events, half_life_days: halving of an event's weight for every so many events, or days, that lie
            between it and the newest; 0: none. Of such a log, too.
        refit: when the settings are chosen, fit the model on the validation pairs, too, if they count as taken in the
            test (``data.mask_validation``).
        memory_gib: most memory that training may take; beyond it the run is refused before it begins.
    """

    kind: Literal["linear"] = "linear"
    ranks: tuple[int, ...] = (32, 64, 128, 256, 448)
    user_degrees: tuple[float, ...] = (0.3, 0.5)
    degrees: tuple[float, ...] = (0.2, 0.35, 0.5)
    low_pass: tuple[float, ...] = (0.05, 0.3, 1.0, 3.0)
    sharpen: tuple[float, ...] = (0.0, 0.4, 0.65, 0.8)
    neighbours: tuple[int, ...] = (32, 128, 512)
    actions: bool = True
    half_life_events: tuple[float, ...] = (0.0, 20.0, 5.0, 2.0)
    half_life_days: tuple[float, ...] = (0.0, 30.0, 7.0, 2.0)
    refit: bool = True
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        for name, least in (("ranks", 1), *((name, 0) for name in OPEN if name != "ranks")):
            values = getattr(self, name)
            if not values or min(values) < least or len(set(values)) < len(values):
                raise ConfigError(f"model.{name} is {list(values)}; allowed: distinct values of {least} or more")

    @property
    def dim(self) -> int:
        """Columns of the widest."""
        return max(self.ranks)

    @property
    def layers(self) -> int:
        """No hops are taken by descent."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Settings of a model, chosen.

    Attributes:
        rank, user_degree, degree, low_pass, sharpen, neighbours: as in :class:`LinearConfig`.
        weights: of the events of a history.
    """

    rank: int
    user_degree: float
    degree: float
    low_pass: float
    sharpen: float
    neighbours: int
    weights: HistoryWeights = field(default_factory=HistoryWeights)

    def __str__(self) -> str:
        own = f"rank {self.rank}, user_degree {self.user_degree:g}, degree {self.degree:g}, "
        own += f"low_pass {self.low_pass:g}, sharpen {self.sharpen:g}, neighbours {self.neighbours}"
        return f"{own}, {self.weights}" if self.weights != HistoryWeights() else own


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearModel:
    """A model as it is served.

    Attributes:
        settings: that it was made with.
        history_MK: what an item of a history adds to the user's vector, float32.
        items_MK: what the user's vector is multiplied with, float32.
        near_MJ: items that an item of a history adds to, int32; -1 for none.
        add_MJ: what it adds, float32.
        popularity_M: scores for users without a history, float32.
        alone_K: what a column counts where an item without neighbours is scored or stands in the history, in those of
            ``history_MK``: nothing else says there what P does; float32.
        added: the last so many items came after training (:meth:`with_items`).
    """

    settings: Linear
    history_MK: Float32Array
    items_MK: Float32Array
    near_MJ: Int32Array
    add_MJ: Float32Array
    popularity_M: Float32Array
    alone_K: Float32Array
    added: int = 0

    @property
    def rows_MR(self) -> Float32Array:
        """Of each item what it adds to a user's vector and what that is multiplied with, side by side, [M, 2 K], as if
        it had no neighbours: what an item that came after training is like."""
        return np.concatenate([self.history_MK * self.alone_K, self.items_MK], axis=1)

    @property
    def learnt_M(self) -> BoolArray:
        """Items with a training pair, and those that were added."""
        learnt_M: BoolArray = self.popularity_M > 0
        learnt_M[len(learnt_M) - self.added :] |= self.added > 0
        return learnt_M

    def with_items(self, rows_AR: Float32Array) -> LinearModel:
        """The model with more items behind its own, which have rows as of :attr:`rows_MR`, and no neighbours."""
        added, (_, near) = len(rows_AR), self.near_MJ.shape
        history_AK, items_AK = np.split(rows_AR, 2, axis=1)
        return replace(
            self,
            history_MK=np.concatenate([self.history_MK, history_AK]),
            items_MK=np.concatenate([self.items_MK, items_AK]),
            near_MJ=np.concatenate([self.near_MJ, np.full((added, near), -1, dtype=np.int32)]),
            add_MJ=np.concatenate([self.add_MJ, np.zeros((added, near), dtype=np.float32)]),
            popularity_M=np.concatenate([self.popularity_M, np.zeros(added, dtype=np.float32)]),
            added=self.added + added,
        )

    @property
    def near_MM(self) -> csr_matrix:
        """The neighbours as a sparse matrix, [M, M]."""
        return neighbour_matrix(self.near_MJ, self.add_MJ, len(self.near_MJ))

    def scores(self, history_BM: csr_matrix, near_MM: csr_matrix | None = None) -> Float32Array:
        """Scores of all items for users of these weighted histories, [B, M]; popularity where none of it was learnt.

        Args:
            history_BM: weights of the items of each user, distinct.
            near_MM: :attr:`near_MM`, where there are many calls.
        """
        near_MM = self.near_MM if near_MM is None else near_MM
        history_BM = csr_matrix(history_BM.multiply(self.learnt_M))  # of other items nothing was learnt
        own = len(self.items_MK) - self.added
        users_BK, of_added_BK = history_BM[:, :own] @ self.history_MK[:own], history_BM[:, own:] @ self.history_MK[own:]
        scores_BM: Float32Array = (users_BK + of_added_BK) @ self.items_MK.T
        scores_BM[:, own:] = (users_BK * self.alone_K + of_added_BK) @ self.items_MK[own:].T
        scores_BM += (history_BM @ near_MM).toarray()
        empty_B = np.asarray(history_BM.max(axis=1).toarray())[:, 0] <= 0
        scores_BM[empty_B] = self.popularity_M
        return scores_BM


def neighbour_matrix(near_CJ: Int32Array, add_CJ: Float32Array, num_items: int) -> csr_matrix:
    """Neighbours of C items as a sparse matrix, [C, M]; those of -1 add nothing."""
    rows, count = near_CJ.shape
    values = np.where(near_CJ >= 0, add_CJ, np.float32(0)).ravel()
    return csr_matrix((values, np.maximum(near_CJ, 0).ravel(), np.arange(rows + 1) * count), shape=(rows, num_items))


def of_eigenvalues(values_K: Tensor, *, low_pass: float, sharpen: float) -> tuple[float, Tensor, Tensor]:
    """The factor of P, that of each of the first eigenvectors beside it, [K], and that of each alone, [K].

    The second is kept away from 0 (``_LEAST``), so that rows of items without neighbours, which take the last in its
    place, are multiples of it.

    Args:
        values_K: the first eigenvalues, falling.
        low_pass, sharpen: a and T.
    """
    least, sharpened_K = float(values_K[-1]), 1 - sharpen * values_K
    beside_K = low_pass * sharpened_K - sharpen * values_K * (values_K - least)
    beside_K = torch.where(beside_K.abs() < _LEAST, torch.full_like(beside_K, _LEAST).copysign(beside_K), beside_K)
    return 1 - sharpen * least, beside_K, (values_K + low_pass) * sharpened_K


def linear_model(
    operator: ItemFilter,
    values_K: Tensor,
    vectors_MK: Tensor,
    settings: Linear,
    popularity_M: Float32Array,
    *,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> LinearModel:
    """The model of an operator and its first eigenvalues and vectors, at least ``settings.rank`` of them."""
    first_MK = vectors_MK[:, : settings.rank]
    scale_M1 = operator.scale_M(settings.degree)[:, None]
    of_near, beside_K, alone_K = of_eigenvalues(
        values_K[: settings.rank], low_pass=settings.low_pass, sharpen=settings.sharpen
    )
    near_MJ, add_MJ = strongest_neighbours(
        operator, np.arange(operator.num_items), settings.neighbours, degree=settings.degree, report=report
    )
    add_MJ *= np.float32(of_near)
    return LinearModel(
        settings=settings,
        history_MK=(first_MK * beside_K / scale_M1).numpy(),
        items_MK=(first_MK * scale_M1).numpy(),
        near_MJ=near_MJ,
        add_MJ=add_MJ,
        popularity_M=popularity_M,
        alone_K=(alone_K / beside_K).numpy(),
    )


def strongest_neighbours(
    operator: ItemFilter,
    items_C: Int64Array,
    count: int,
    *,
    degree: float,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Int32Array, Float32Array]:
    """The largest entries of ``D^-d P D^d`` in some items' rows, but for the items themselves.

    Args:
        operator: ``P``.
        items_C: the rows, C items.
        count: J; fewer where there are not so many other items.
        degree: d.
        report: called with the rows done, and all.

    Returns:
        The items, int32 [C, J], the strongest first, -1 for none; and what they get, float32 [C, J].
    """
    count = min(count, operator.num_items - 1)
    near_CJ = np.full((len(items_C), count), -1, dtype=np.int32)
    add_CJ = np.zeros((len(items_C), count), dtype=np.float32)
    if not count:
        return near_CJ, add_CJ
    pairs_NM, scale_M = operator.matrix_NM(), operator.scale_M(degree).numpy()
    pairs_MN = pairs_NM.T.tocsr()

    def fill(rows: slice) -> int:
        block = items_C[rows]
        similar_BM = pairs_MN[block] @ pairs_NM
        for row, item in enumerate(block.tolist()):
            own = slice(similar_BM.indptr[row], similar_BM.indptr[row + 1])
            near_E = similar_BM.indices[own]
            value_E = similar_BM.data[own] * (scale_M[near_E] / scale_M[item])
            value_E[near_E == item] = 0.0
            if len(near_E) > count:
                kept = np.argpartition(value_E, -count)[-count:]
                near_E, value_E = near_E[kept], value_E[kept]
            order = np.argsort(-value_E, kind="stable")
            order = order[value_E[order] > 0.0]
            near_CJ[rows.start + row, : len(order)] = near_E[order]
            add_CJ[rows.start + row, : len(order)] = value_E[order]
        return int(rows.stop)

    # The products let go of Python's lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in pool.map(fill, _blocks(pairs_NM, pairs_MN, items_C)):
            report(done, len(items_C))
    return near_CJ, add_CJ


def _blocks(pairs_NM: csr_matrix, pairs_MN: csr_matrix, items_C: Int64Array) -> Iterator[slice]:
    """Stretches of items whose rows of ``P`` take about equal work."""
    of_users_N = np.diff(pairs_NM.indptr)
    ones_MN = csr_matrix((np.ones(pairs_MN.nnz), pairs_MN.indices, pairs_MN.indptr), shape=pairs_MN.shape)
    work_M = ones_MN @ of_users_N
    number_C = np.cumsum(work_M[items_C]) // _BLOCK_ENTRIES
    ends = [*(np.flatnonzero(np.diff(number_C)) + 1).tolist(), len(items_C)]
    begin = 0
    for end in ends:
        yield slice(begin, end)
        begin = end


def memory_bytes(*, users: int, items: int, pairs: int, validated: int, rank: int, neighbours: int) -> int:
    """Memory that training takes at its peak, roughly: pairs, the basis, a block of neighbours, the model.

    Args:
        users, items, pairs: of the data.
        validated: users whose items are ranked at a time.
        rank, neighbours: the largest that may be chosen.
    """
    basis = 4 * items * (2 * basis_columns(rank, items) + 3 * rank)
    blocks = 4 * validated * (users + 5 * items) + 24 * _BLOCK_ENTRIES * torch.get_num_threads()
    return 96 * pairs + basis + blocks + items * (12 * rank + 16 * neighbours)
