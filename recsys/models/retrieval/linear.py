"""Linear filtering of a user's history: a closed form, and how an index serves it.

A user with the 0/1 history ``r`` scores items by

    s = (r P + a r D^-1/2 V V' D^1/2) (I - T P)

P says which items are taken by the same users (``spectrum.py``), V are its first eigenvectors, D the items' numbers of
pairs. Without the sharpening, T = 0, it is GF-CF (Shen et al., CIKM 2021; arXiv 2108.07567); with it BSPM (Choi et al.,
SIGIR 2023; arXiv 2211.09324). Nothing is learnt by descent, and nothing of a user but the history.

A server would need P as a whole. Served are, for each item of the history, a row of ``a D^-1/2 V`` that a scan of
``(I - T P) D^1/2 V`` turns into scores, which is the second part exactly, and the item's strongest neighbours in
``P (I - T P)``, which are nearly all of the first: low rank alone loses a tenth to a seventh of the recall of Gowalla.

Legend: ``M`` items, ``B`` users, ``K`` columns, ``J`` neighbours of an item.
"""

from __future__ import annotations

from collections.abc import Callable
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

_BLOCK = 64
_STRETCH = 32


OPEN = ("ranks", "low_pass", "sharpen", "neighbours", "half_life_events", "half_life_days")
"""Settings with values to choose from."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A closed form: settings with several values are chosen on validation, one after another.

    Attributes:
        ranks: columns of the low-rank part.
        low_pass: weight of the low-rank part (GF-CF's alpha).
        sharpen: T of the sharpening (BSPM's time); 0: none.
        neighbours: strongest neighbours of an item that are served; 0: none.
        actions: of each attribute of the history with few values, weights by value, the share of such events that are
            positives, are tried beside weights of 1; of a log that has events beside pairs.
        half_life_events, half_life_days: halving of an event's weight for every so many events, or days, that lie
            between it and the newest; 0: none. Of such a log, too.
        memory_gib: most memory that training may take; beyond it the run is refused before it begins.
    """

    kind: Literal["linear"] = "linear"
    ranks: tuple[int, ...] = (64, 128, 256, 448)
    low_pass: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    sharpen: tuple[float, ...] = (0.0, 0.4, 0.7, 1.0)
    neighbours: tuple[int, ...] = (32, 128, 512)
    actions: bool = True
    half_life_events: tuple[float, ...] = (0.0, 20.0, 5.0)
    half_life_days: tuple[float, ...] = (0.0, 30.0, 7.0)
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
    def init_std(self) -> float:
        """Nothing is drawn."""
        return 0.0

    @property
    def layers(self) -> int:
        """No hops are taken by descent."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Settings of a model, chosen.

    Attributes:
        rank, low_pass, sharpen, neighbours: as in :class:`LinearConfig`.
        weights: of the events of a history.
    """

    rank: int
    low_pass: float
    sharpen: float
    neighbours: int
    weights: HistoryWeights = field(default_factory=HistoryWeights)

    def __str__(self) -> str:
        own = f"rank {self.rank}, low_pass {self.low_pass:g}, sharpen {self.sharpen:g}, neighbours {self.neighbours}"
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
        added: the last so many items came after training (:meth:`with_items`).
    """

    settings: Linear
    history_MK: Float32Array
    items_MK: Float32Array
    near_MJ: Int32Array
    add_MJ: Float32Array
    popularity_M: Float32Array
    added: int = 0

    @property
    def rows_MR(self) -> Float32Array:
        """Of each item what it adds to a user's vector and what that is multiplied with, side by side, [M, 2 K]."""
        return np.concatenate([self.history_MK, self.items_MK], axis=1)

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
        items, near = self.near_MJ.shape
        return csr_matrix(
            (
                np.where(self.near_MJ >= 0, self.add_MJ, np.float32(0)).ravel(),
                np.maximum(self.near_MJ, 0).ravel(),
                np.arange(0, items * near + 1, max(near, 1))[: items + 1] if near else np.zeros(items + 1, dtype=int),
            ),
            shape=(items, items),
        )

    def scores(self, history_BM: csr_matrix, near_MM: csr_matrix | None = None) -> Float32Array:
        """Scores of all items for users of these weighted histories, [B, M]; popularity where none of it was learnt.

        Args:
            history_BM: weights of the items of each user, distinct.
            near_MM: :attr:`near_MM`, where there are many calls.
        """
        near_MM = self.near_MM if near_MM is None else near_MM
        history_BM = csr_matrix(history_BM.multiply(self.learnt_M))  # of other items nothing was learnt
        scores_BM: Float32Array = (history_BM @ self.history_MK) @ self.items_MK.T
        scores_BM += (history_BM @ near_MM).toarray()
        empty_B = np.asarray(history_BM.max(axis=1).toarray())[:, 0] <= 0
        scores_BM[empty_B] = self.popularity_M
        return scores_BM


def whole_scores(
    operator: ItemFilter, vectors_MK: Tensor, history_MB: Tensor, *, low_pass: float, sharpen: float
) -> Tensor:
    """Scores by the closed form as it is written, with all neighbours of every item, [M, B].

    Args:
        operator: ``P``.
        vectors_MK: its first eigenvectors.
        history_MB: weights of the items of each user.
        low_pass, sharpen: as in :class:`LinearConfig`.
    """
    along_KB = vectors_MK.t() @ (history_MB / operator.root_M[:, None])
    smooth_MB = operator.root_M[:, None] * (vectors_MK @ along_KB)
    return operator.sharpened(operator.apply(history_MB) + low_pass * smooth_MB, sharpen)


def linear_model(
    operator: ItemFilter,
    vectors_MK: Tensor,
    settings: Linear,
    popularity_M: Float32Array,
    *,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> LinearModel:
    """The model of an operator and its first eigenvectors, at least ``settings.rank`` of them."""
    first_MK = vectors_MK[:, : settings.rank]
    root_M1 = operator.root_M[:, None]
    near_MJ, add_MJ = strongest_neighbours(
        operator, np.arange(operator.num_items), settings.neighbours, sharpen=settings.sharpen, report=report
    )
    return LinearModel(
        settings=settings,
        history_MK=(settings.low_pass * first_MK / root_M1).numpy(),
        items_MK=operator.sharpened(first_MK * root_M1, settings.sharpen).numpy(),
        near_MJ=near_MJ,
        add_MJ=add_MJ,
        popularity_M=popularity_M,
    )


def strongest_neighbours(
    operator: ItemFilter,
    items_C: Int64Array,
    count: int,
    *,
    sharpen: float,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Int32Array, Float32Array]:
    """The entries of ``P (I - T P)`` of the largest size in some items' rows, but for the items themselves.

    Args:
        operator: ``P``.
        items_C: the rows, C items.
        count: J; fewer where there are not so many other items.
        sharpen: T.
        report: called with the rows done, and all.

    Returns:
        The items, int32 [C, J], the strongest first, -1 for none; and what they get, float32 [C, J].
    """
    items = operator.num_items
    count = min(count, items - 1)
    near_CJ = np.full((len(items_C), count), -1, dtype=np.int32)
    add_CJ = np.zeros((len(items_C), count), dtype=np.float32)
    for begin in range(0, len(items_C) if count else 0, _BLOCK):
        block = torch.from_numpy(items_C[begin : begin + _BLOCK])
        place = torch.arange(len(block))
        ones_MB = torch.zeros(items, len(block))
        ones_MB[block, place] = 1.0
        rows_BM = operator.sharpened(operator.apply(ones_MB), sharpen).t().contiguous()
        rows_BM[place, block] = 0.0
        size_BJ, near_BJ = _largest(rows_BM.abs(), count)
        near_BJ[size_BJ == 0.0] = -1
        near_CJ[begin : begin + len(block)] = near_BJ.numpy()
        add_BJ = rows_BM.gather(1, near_BJ.clamp_min(0)) * (near_BJ >= 0)
        add_CJ[begin : begin + len(block)] = add_BJ.numpy()
        report(min(begin + _BLOCK, len(items_C)), len(items_C))
    return near_CJ, add_CJ


def _largest(values_BM: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row, falling, and where they are: in the stretches with the largest maxima."""
    rows, items = values_BM.shape
    stretches = -(-items // _STRETCH)
    if count >= stretches // 2:
        found = values_BM.topk(count, dim=1)
        return found.values, found.indices
    padded = torch.nn.functional.pad(values_BM, (0, stretches * _STRETCH - items)).view(rows, stretches, _STRETCH)
    likely = padded.amax(dim=2).topk(count, dim=1, sorted=False).indices
    candidates = padded.gather(1, likely[:, :, None].expand(-1, -1, _STRETCH)).flatten(1)
    values, index = candidates.topk(count, dim=1)
    return values, likely.gather(1, index // _STRETCH) * _STRETCH + index % _STRETCH


def memory_bytes(*, users: int, items: int, pairs: int, validated: int, rank: int, neighbours: int) -> int:
    """Memory that training takes at its peak, roughly: pairs, the basis, a block of neighbours, the model.

    Args:
        users, items, pairs: of the data.
        validated: users whose items are ranked at a time.
        rank, neighbours: the largest that may be chosen.
    """
    basis = 4 * items * (2 * basis_columns(rank, items) + 3 * rank)
    blocks = 4 * max(_BLOCK, validated) * (users + 5 * items)
    return 64 * pairs + basis + blocks + items * (12 * rank + 16 * neighbours)
