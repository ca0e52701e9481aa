"""Items and users that a model did not see in training, found in full rankings.

The data are item sequences split leave-one-out (Beauty of S3-Rec).

Items: a random tenth of all items is taken out of every training sequence, and out of validation, by which settings are
chosen. The model makes them rows of their attributes, as a server does for an item that came after training; all items
are then ranked for all users. HR@10 of held-out items is that of the users whose last item is one of them. Histories
have both kinds.

Users: a tenth of the users with ``LEAST`` items or more is held out. One model is trained without them, one with the
first half of their items; both are given this half as history and have to find the second half.

Legend: ``M`` items, ``N`` users, ``E`` events, ``A`` held-out items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from recsys.arrays import BoolArray, Int64Array
    from recsys.data.interactions.pairs import Interactions
    from recsys.training.retrieval.config import RetrievalRunConfig
    from recsys.training.retrieval.ranking import RankingMetrics

SHARE, SEED = 0.1, 2026
LEAST = 6
"""Items of a held-out user: three are the history, at least three are to be found."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """All events of users, those of a user together and oldest first."""

    user_E: Int64Array
    item_E: Int64Array


def all_events(data: Interactions) -> Events:
    """The sequences as they were before they were split."""
    before, last = data.histories["test"], data.test
    user_E = np.concatenate([before.user_E, last.user_E])
    order = np.argsort(user_E, kind="stable")
    return Events(user_E=user_E[order], item_E=np.concatenate([before.item_E, last.item_E])[order])


def warm_only(data: Interactions, cold_M: BoolArray) -> tuple[Interactions, Interactions]:
    """The data without some items, and with them behind the others; of the latter the test part and its histories
    count."""
    order_M = np.concatenate([np.flatnonzero(~cold_M), np.flatnonzero(cold_M)])
    place_M = np.empty_like(order_M)
    place_M[order_M] = np.arange(len(order_M))
    whole = _renumbered(data, place_M, order_M)
    warm = int((~cold_M).sum())
    return _without_items(whole, warm), replace(whole, train=_below(whole.train, warm), candidates={})


def _renumbered(data: Interactions, place_M: Int64Array, order_M: Int64Array) -> Interactions:
    from recsys.data.interactions.pairs import Pairs, make_pairs

    def pairs(of: Pairs) -> Pairs:
        return make_pairs(of.user_E, place_M[of.item_E])

    assert data.ids is not None and data.ids.item_names_M is None
    return replace(
        data,
        train=pairs(data.train),
        validation=pairs(data.validation),
        test=pairs(data.test),
        histories={name: replace(of, item_E=place_M[of.item_E]) for name, of in data.histories.items()},
        item_columns={name: column[order_M] for name, column in data.item_columns.items()},
        ids=replace(data.ids, item_keys_M=data.ids.item_keys_M[order_M]),
    )


def _below(pairs: Any, items: int) -> Any:
    return pairs.where(pairs.item_E < items)


def _without_items(data: Interactions, items: int) -> Interactions:
    assert data.ids is not None
    return replace(
        data,
        num_items=items,
        train=_below(data.train, items),
        validation=_below(data.validation, items),
        test=_below(data.test, items),
        histories={name: _below(of, items) for name, of in data.histories.items()},
        item_columns={name: column[:items] for name, column in data.item_columns.items()},
        ids=replace(data.ids, item_keys_M=data.ids.item_keys_M[:items]),
        candidates={},
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Metrics of all users, of those whose item was held out, and of the others; and of popularity.

    Attributes:
        places: share of the places of all lists that held-out items have.
    """

    all: RankingMetrics
    cold: RankingMetrics | None
    warm: RankingMetrics
    popularity: RankingMetrics
    places: float


def made_sequences(users: int = 240, items: int = 120, length: int = 8) -> Interactions:
    """Users who take items of one of six brands: what a rough form takes in Beauty's place."""
    from recsys.data.interactions.histories import UserEvents
    from recsys.data.interactions.ids import PairIds
    from recsys.data.interactions.pairs import Interactions, make_pairs
    from recsys.features.feature_set import Categorical, FeatureSet, History

    random, brand_M = np.random.default_rng(0), np.arange(items) % 6
    item_NL = np.stack([random.permutation(np.flatnonzero(brand_M == user % 6))[:length] for user in range(users)])

    def events(until: int) -> UserEvents:
        user_E = np.repeat(np.arange(users), until)
        return UserEvents(user_E=user_E, item_E=item_NL[:, :until].ravel(), attributes={})

    def pairs(begin: int, end: int) -> Any:
        return make_pairs(np.repeat(np.arange(users), end - begin), item_NL[:, begin:end].ravel())

    features = FeatureSet(
        name="made",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        item=(Categorical(name="brand"),),
        history=History(),
    )
    return Interactions(
        num_users=users,
        num_items=items,
        train=pairs(0, length - 2),
        validation=pairs(length - 2, length - 1),
        test=pairs(length - 1, length),
        source="made sequences",
        ids=PairIds(features=features, user_keys_N=np.arange(users), item_keys_M=np.arange(items)),
        histories={"validation": events(length - 2), "test": events(length - 1)},
        item_columns={"brand": brand_M.astype(np.int64)},
    )


def cold_items(config: RetrievalRunConfig, data: Interactions, folder: Path) -> Found:
    """Figures of items that were held out. In no list is what its user had before, of either kind."""
    from recsys.data.interactions.pairs import make_pairs

    cold_M = np.random.Generator(np.random.PCG64(SEED)).random(data.num_items) < SHARE
    train, whole = warm_only(data, cold_M)
    score = _scores(config, train, whole, folder)
    before = whole.histories["test"]
    had = make_pairs(before.user_E, before.item_E)
    return _measured(score, whole, warm=train.num_items, excluded=(had,), length=10)


def cold_users(config: RetrievalRunConfig, data: Interactions, folder: Path) -> tuple[RankingMetrics, RankingMetrics]:
    """Metrics of lists of 20 for users who were held out, and for the same users when they were not."""
    events = all_events(data)
    length_N = np.bincount(events.user_E, minlength=data.num_users)
    chosen_N = np.random.Generator(np.random.PCG64(SEED)).random(data.num_users) < SHARE
    chosen_N &= length_N >= LEAST
    return tuple(  # type: ignore[return-value]
        _half_known(config, data, events, chosen_N, folder / name, known=name == "known") for name in ("new", "known")
    )


def _half_known(
    config: RetrievalRunConfig, data: Interactions, events: Events, chosen_N: BoolArray, folder: Path, *, known: bool
) -> RankingMetrics:
    from recsys.data.interactions.histories import UserEvents
    from recsys.data.interactions.pairs import make_pairs

    length_N = np.bincount(events.user_E, minlength=data.num_users)
    end_N = np.cumsum(length_N)
    place_E = np.arange(len(events.user_E)) - (end_N - length_N)[events.user_E]
    chosen_E = chosen_N[events.user_E]
    half_E = chosen_E & (place_E < length_N[events.user_E] // 2)
    last_E = ~chosen_E & (place_E == length_N[events.user_E] - 1)
    trained_E = (~chosen_E & ~last_E) | (half_E & known)

    def pairs(of_E: BoolArray) -> Any:
        return make_pairs(events.user_E[of_E], events.item_E[of_E])

    def history(of_E: BoolArray) -> UserEvents:
        item_E = events.item_E[of_E]
        # An event's attributes are its item's.
        attributes = {name: data.item_columns[name][item_E] for name in data.histories["test"].attributes}
        return UserEvents(user_E=events.user_E[of_E], item_E=item_E, attributes=attributes)

    own = replace(
        data,
        train=pairs(trained_E),
        validation=pairs(last_E),
        test=pairs(chosen_E & ~half_E),
        histories={"validation": history(trained_E), "test": history(trained_E | half_E)},
        candidates={},
    )
    score = _scores(config, own, own, folder)
    half = pairs(half_E)
    return _measured(score, own, warm=own.num_items, excluded=(half,), length=20).all


def _measured(score: Any, data: Interactions, *, warm: int, excluded: tuple[Any, ...], length: int) -> Found:
    import torch

    from recsys.training.retrieval.ranking import list_metrics, rank_users, top_scored

    test = data.test
    found_Gk = top_scored(
        score, np.unique(test.user_E), num_items=data.num_items, excluded=excluded, list_length=length
    )
    parts: dict[str, RankingMetrics | None] = {}
    for name, chosen_E in (("cold", test.item_E >= warm), ("warm", test.item_E < warm)):
        part = test.where(chosen_E)
        rows = np.isin(np.unique(test.user_E), part.user_E)
        parts[name] = list_metrics(found_Gk[rows], part, num_items=data.num_items)[0] if len(part) else None
    popular_M = np.bincount(data.train.item_E, minlength=data.num_items).astype(np.float32)
    popularity, _ = rank_users(
        torch.ones((data.num_users, 1)),
        torch.from_numpy(popular_M)[:, None],
        relevant=test,
        excluded=excluded,
        list_length=length,
    )
    everything = list_metrics(found_Gk, test, num_items=data.num_items)[0]
    assert parts["warm"] is not None
    places = float((found_Gk >= warm).sum() / (found_Gk >= 0).sum())
    return Found(all=everything, cold=parts["cold"], warm=parts["warm"], popularity=popularity, places=places)


def _scores(config: RetrievalRunConfig, train: Interactions, whole: Interactions, folder: Path) -> Any:
    """Scores of all items of ``whole`` for some users, by a model that was trained on ``train``."""
    kinds = {"linear": _of_linear, "two_tower": _of_two_tower}
    return kinds[config.model.kind](config, train, whole, folder)


def _of_linear(config: RetrievalRunConfig, train: Interactions, whole: Interactions, folder: Path) -> Any:
    from recsys.training.retrieval.linear.fit import fit, scores_of
    from recsys.training.retrieval.linear.histories import histories

    fitted = fit(config, train)
    model, added = fitted.model, whole.num_items - train.num_items
    if added:
        assert fitted.attributes is not None
        columns = {name: column[train.num_items :] for name, column in whole.item_columns.items()}
        model = model.with_items(fitted.attributes.rows(columns, added)[0])
    return scores_of(model, histories(config, whole, model.settings.weights, test=True))


def _of_two_tower(config: RetrievalRunConfig, train: Interactions, whole: Interactions, folder: Path) -> Any:
    import torch

    from recsys.data.interactions.pairs import ids_of
    from recsys.models.retrieval.two_tower.config import TwoTowerConfig
    from recsys.models.retrieval.two_tower.features import tower_features
    from recsys.training.retrieval.run import train_any
    from recsys.training.retrieval.two_tower.learner import SequenceLearner
    from recsys.training.retrieval.two_tower.sequences import training_sequences
    from recsys.training.retrieval.two_tower.trained import load_two_tower

    if not len(train.test):
        train = replace(train, test=train.validation)
    train_any(config, train, folder)
    _, trained = load_two_tower(folder, train)
    # The same towers over all items: an id that the tables do not have is no id.
    assert isinstance(config.model, TwoTowerConfig)
    features = tower_features(ids_of(whole).features)
    model = config.model
    sequences, _ = training_sequences(config, whole, window=model.window, long_history=model.long_history)
    learner = SequenceLearner(config, whole, features, sequences, row_maps=trained.row_maps, numbers=trained.numbers)
    weights = trained.weights()
    weights["read"] = torch.nn.functional.pad(weights["read"], (0, whole.num_items - train.num_items))
    learner.load_state_dict(weights)
    return learner.score(np.unique(whole.test.user_E), test=True)
