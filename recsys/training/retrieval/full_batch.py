"""Full-batch training of models that rank all items, by the protocol of GraphHash (WWW 2025, its code).

Minibatches, with the protocol of NGCF and LightGCN, are in ``loop.py``.

BPR with a uniform negative per training pair, drawn anew each epoch and not rejected when the user took it; one step
of Adam with coupled weight decay per epoch, over all pairs; validation every 10 epochs; stop when 50 epochs brought no
better validation recall; test the best weights.

Departures: LightGCN takes full batches too (GraphHash: 1,024 pairs, so some 700 propagations of the whole graph per
epoch), which asks for learning rates of its own, and its rows start by Xavier's rule as those of matrix factorisation
do (GraphHash: N(0, 1); a step of Adam moves a weight by about the learning rate, and there is one step per epoch);
validation ranks all items for a fixed sample of users, not for all; items of equal score come in random order.

Legend: ``N`` users, ``M`` items, ``D`` width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.data.interactions.pairs import Interactions
from recsys.errors import ConfigError, InvalidInputError, nearest
from recsys.models.retrieval.hops import full_hop
from recsys.models.retrieval.lightgcn import LightGcn
from recsys.models.retrieval.mf import (
    IdRows,
    IdVectors,
    MatrixFactorization,
    bpr_loss,
    draw_negatives,
    training_pairs,
)
from recsys.training.retrieval.ranking import RankingMetrics, rank_all, sample_users

RetrievalModel = MatrixFactorization | LightGcn


@dataclass(frozen=True, kw_only=True)
class FullBatchConfig:
    """A run; the defaults are GraphHash's full table of matrix factorisation on Gowalla.

    Attributes:
        model: ``mf`` or ``lightgcn``.
        dim: width of an id's vector.
        layers: of LightGCN.
        init_std: of the vectors' columns at the start; None: Xavier's rule
            (:class:`recsys.models.retrieval.mf.IdVectors`).
        learning_rate: of Adam.
        weight_decay: coupled L2 on all rows, at each step.
        epochs: at most so many.
        validate_every: epochs between validations.
        patience: stop after so many epochs without a better validation recall. An epoch is one step: LightGCN's
            recall on Gowalla falls before it rises, and 50 ended a run at epoch 60, on the way up.
        validation_users: users whose items are ranked in validation, a fixed sample for all seeds; 0 for all.
        list_length: k of the metrics.
        seed: of initial rows and negatives.
    """

    model: Literal["mf", "lightgcn"] = "mf"
    dim: int = 64
    layers: int = 2
    init_std: float | None = None
    learning_rate: float = 5e-3
    weight_decay: float = 1e-8
    epochs: int = 1000
    validate_every: int = 10
    patience: int = 50
    validation_users: int = 5000
    list_length: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in ("mf", "lightgcn"):
            raise ConfigError(f"model is {self.model!r}: {nearest(self.model, ['mf', 'lightgcn'])}")
        for name in ("dim", "layers", "epochs", "validate_every", "patience", "list_length"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}; allowed: 1 or more")
        for name in ("init_std", "learning_rate", "weight_decay", "validation_users", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}; allowed: 0 or more")


@dataclass(frozen=True, kw_only=True)
class EpochProgress:
    """An epoch that is done; ``validation`` where there was one."""

    epoch: int
    epochs: int
    loss: float
    validation: RankingMetrics | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FullBatchResult:
    """Measurements of a run.

    Attributes:
        test: of the best epoch's weights.
        validation: of the same, on the sample of users.
        best_epoch, epochs: which epoch that was, and how many there were.
        train_s, validation_s, test_s: time of the epochs, the validations and the test.
        users_ND, items_MD: the best epoch's vectors.
    """

    test: RankingMetrics
    validation: RankingMetrics
    best_epoch: int
    epochs: int
    train_s: float
    validation_s: float
    test_s: float
    users_ND: Tensor
    items_MD: Tensor


def train_full_batch(
    config: FullBatchConfig,
    interactions: Interactions,
    user_rows: IdRows,
    item_rows: IdRows,
    *,
    report: Callable[[EpochProgress], None] = lambda progress: None,
) -> FullBatchResult:
    """Train, stop early, and test. Runs of one seed and one number of threads have the same result.

    Args:
        config: the run.
        interactions: with a validation and a test part.
        user_rows, item_rows: the rows of all users and items (:func:`recsys.models.retrieval.mf.mapped_rows`).
        report: called after each epoch; to stop a run, raise from it.

    Raises:
        InvalidInputError: a part is empty, rows are not of these users and items, or the loss is not finite.
    """
    _check(interactions, user_rows, item_rows)
    model = build_full_batch_model(config, interactions, user_rows, item_rows)
    train, validation = interactions.train, interactions.validation
    pairs = training_pairs(
        torch.from_numpy(train.user_E),
        torch.from_numpy(train.item_E),
        num_users=interactions.num_users,
        num_items=interactions.num_items,
    )
    sample = sample_users(validation, config.validation_users)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )

    best: RankingMetrics | None = None
    best_vectors: tuple[Tensor, Tensor] | None = None
    best_epoch = 0
    train_s = validation_s = 0.0
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        users_ND, items_MD = model()
        loss = bpr_loss(users_ND, items_MD, pairs, draw_negatives(pairs, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_value = loss.item()
        train_s += time.perf_counter() - started
        if not math.isfinite(loss_value):
            raise InvalidInputError(f"epoch {epoch}: the loss is {loss_value}; lower the learning rate")

        metrics = None
        if epoch % config.validate_every == 0 or epoch == config.epochs:
            started = time.perf_counter()
            with torch.no_grad():  # a copy: rows of an id's own are the model's
                users_ND, items_MD = (each.detach().clone() for each in model())
            vectors = users_ND, items_MD
            metrics = rank_all(*vectors, relevant=sample, excluded=(train,), list_length=config.list_length)
            if best is None or metrics.capped_recall > best.capped_recall:
                best, best_vectors, best_epoch = metrics, vectors, epoch
            validation_s += time.perf_counter() - started
        report(EpochProgress(epoch=epoch, epochs=config.epochs, loss=loss_value, validation=metrics))
        if epoch - best_epoch >= config.patience and best is not None:
            break

    assert best is not None and best_vectors is not None  # the last epoch is always validated
    started = time.perf_counter()
    test = rank_all(
        *best_vectors, relevant=interactions.test, excluded=(train, validation), list_length=config.list_length
    )
    return FullBatchResult(
        test=test,
        validation=best,
        best_epoch=best_epoch,
        epochs=epoch,
        train_s=train_s,
        validation_s=validation_s,
        test_s=time.perf_counter() - started,
        users_ND=best_vectors[0],
        items_MD=best_vectors[1],
    )


def build_full_batch_model(
    config: FullBatchConfig, interactions: Interactions, user_rows: IdRows, item_rows: IdRows
) -> RetrievalModel:
    """An untrained model; its rows depend on nothing but the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        users = IdVectors(user_rows, dim=config.dim, std=config.init_std)
        items = IdVectors(item_rows, dim=config.dim, std=config.init_std)
    if config.model == "mf":
        return MatrixFactorization(users, items)
    hop = full_hop(
        torch.from_numpy(interactions.train.user_E),
        torch.from_numpy(interactions.train.item_E),
        num_users=interactions.num_users,
        num_items=interactions.num_items,
        dtype=torch.float64,  # figures hang on the last digit
    )
    return LightGcn(users, items, hop=hop, layers=config.layers)


def _check(interactions: Interactions, user_rows: IdRows, item_rows: IdRows) -> None:
    for name in ("train", "validation", "test"):
        if not len(getattr(interactions, name)):
            raise InvalidInputError(f"{interactions.source}: the {name} part is empty; expected at least one pair")
    for side, rows, ids in (("user", user_rows, interactions.num_users), ("item", item_rows, interactions.num_items)):
        if len(rows.rows_NK) != ids:
            raise InvalidInputError(f"rows of {len(rows.rows_NK)} {side}s; expected {ids}")
