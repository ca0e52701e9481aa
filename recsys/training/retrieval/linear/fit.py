"""The fit of a closed form: no epochs, no descent; its checkpoint, and the metrics of what is served."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of, joined, make_pairs
from recsys.errors import DataFileError
from recsys.evaluation.predictions import UserValues
from recsys.files import atomic_file
from recsys.models.retrieval.attributes import AttributeRows
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.models.retrieval.linear import Linear, LinearConfig, LinearModel, linear_model
from recsys.models.retrieval.spectrum import ItemFilter, item_filter, largest_eigenvalues
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import FORMAT_VERSION, compare, load, read_retrieval_config
from recsys.training.retrieval.linear.choice import Spectrum, Trial, at_edge, choose, first_settings, is_open
from recsys.training.retrieval.linear.histories import action_weights, histories, user_events, weighted
from recsys.training.retrieval.linear.item_rows import attributes_from_dict, attributes_to_dict, fit_item_rows
from recsys.training.retrieval.new_items.length import USERS, Length, length_of_rows
from recsys.training.retrieval.ranking import RankingMetrics, rank_scored, sample_users
from recsys.training.retrieval.trained import masked_pairs
from recsys.training.run.folder import CHECKPOINT

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much; 0: unknown."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted model, and how its settings were found.

    Attributes:
        attributes: rows of items that came after training; None: items have no features, or these tell none apart.
        notes: a sentence each on what was chosen, and what was left out.
        train_s: seconds it took.
        validation: metrics of the sample of validation users and their values, by the model before it learnt from the
            validation pairs, too; None: it has not.
    """

    model: LinearModel
    attributes: AttributeRows | None = None
    notes: tuple[str, ...]
    train_s: float
    validation: tuple[RankingMetrics, UserValues] | None = None


def fit(config: RetrievalRunConfig, interactions: Interactions, report: Report = lambda what, done, of: None) -> Fitted:
    """Choose the settings on validation, where there are several values, and fit a model on the training pairs.

    Then, with ``model.refit``, on the validation pairs, too, if they count as taken in the test: the model is measured
    on them before.
    """
    began, notes = time.perf_counter(), list(interactions.notes)
    model = within(linear_config(config), interactions, notes)
    settings, parts = first_settings(model), dict[float, _Part]()

    def part_of(user_degree: float) -> _Part:
        if user_degree not in parts:
            pairs, rank = fitted_pairs(interactions), max(model.ranks)
            parts[user_degree] = _part(config, interactions, pairs, user_degree, rank, report)
        return parts[user_degree]

    def spectrum_of(user_degree: float) -> Spectrum:
        part = part_of(user_degree)
        return part.operator, part.values_K, part.vectors_MK

    events, by_action = None, tuple[HistoryWeights, ...]()
    if is_open(model) or (model.actions and len(interactions.validation)):
        events = user_events(config, interactions, test=False)
        by_action = action_weights(events, interactions, settings.weights) if model.actions else ()
    elif model.actions:
        notes.append("there is no validation part: weights of events by action are not tried")
    if events is not None and (is_open(model) or by_action):
        settings, trials = choose(
            model,
            spectrum_of,
            interactions,
            lambda weights: weighted(
                events, weights, num_users=interactions.num_users, num_items=interactions.num_items
            ),
            by_action=by_action,
            list_length=config.train.list_length,
            unknown_M=torch.from_numpy(part_of(settings.user_degree).popularity_M == 0),
            report=report,
        )
        notes.append(_told(settings, trials, config.train.list_length))
        if edge := at_edge(model, settings):
            notes.append(f"at the edge of the values tried, beyond which others may be better: {', '.join(edge)}")
    made = part_of(settings.user_degree).model(settings, report)
    parts.clear()
    measuring_s, validation = 0.0, None
    if model.refit and config.data.mask_validation and len(interactions.validation):
        measured = time.perf_counter()
        sample = sample_users(interactions.validation, config.train.validation_users)
        validation = evaluate_model(made, config, interactions, sample, test=False)
        measuring_s = time.perf_counter() - measured
        pairs = joined(fitted_pairs(interactions), interactions.validation)
        made = _part(config, interactions, pairs, settings.user_degree, settings.rank, report).model(settings, report)
        notes.append(
            f"measured on the validation part as fitted to {len(fitted_pairs(interactions)):,} training pairs, then "
            f"fitted to the {len(interactions.validation):,} validation pairs, too (model.refit)"
        )
    attributes = fit_item_rows(
        made.rows_MR,
        made.popularity_M,
        interactions,
        notes=notes,
        length_of=lambda items, rows: _length(made, config, interactions, items, rows),
        report=lambda done, of: report("attributes", done, of),
    )
    return Fitted(
        model=made,
        attributes=attributes,
        notes=tuple(notes),
        train_s=time.perf_counter() - began - measuring_s,
        validation=validation,
    )


def _length(
    model: LinearModel,
    config: RetrievalRunConfig,
    interactions: Interactions,
    held_A: Int64Array,
    rows_AR: Float32Array,
) -> Length:
    """Length of what new items are multiplied with, by some items that are given rows as new ones have them.

    Users are as a model that learnt from the validation pairs will meet them, or as the validation part does.
    """
    own, later = interactions.num_items, linear_config(config).refit and config.data.mask_validation
    history_NM = histories(config, interactions, model.settings.weights, test=later)
    users = np.flatnonzero(np.diff(history_NM.indptr))
    if len(users) > USERS:
        users = np.sort(np.random.Generator(np.random.PCG64(0)).choice(users, USERS, replace=False))
    # A held-out item is a copy behind the model's own items, in histories too.
    place_M = np.arange(own)
    place_M[held_A] = own + np.arange(len(held_A))
    shape = (interactions.num_users, own + len(held_A))
    moved = csr_matrix((history_NM.data, place_M[history_NM.indices], history_NM.indptr), shape=shape)
    score = scores_of(model.with_items(rows_AR), moved)
    barred = torch.from_numpy(held_A)
    held_X = np.arange(own + len(held_A)) >= own
    fitted = fitted_pairs(interactions)
    return length_of_rows(
        lambda users_B: score(users_B).index_fill_(1, barred, -torch.inf),
        users,
        held_X,
        excluded=tuple(
            make_pairs(pairs.user_E, place_M[pairs.item_E])
            for pairs in (interactions.train, *((interactions.validation,) if later else ()))
        ),
        list_length=config.train.list_length,
        share=float(np.isin(fitted.item_E, held_A).mean()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Pairs that a model is made of."""

    operator: ItemFilter
    values_K: Tensor
    vectors_MK: Tensor
    popularity_M: Float32Array

    def model(self, settings: Linear, report: Report) -> LinearModel:
        return linear_model(
            self.operator,
            self.values_K,
            self.vectors_MK,
            settings,
            self.popularity_M,
            report=lambda done, of: report("neighbours of items", done, of),
        )


def _part(
    config: RetrievalRunConfig, interactions: Interactions, pairs: Pairs, user_degree: float, rank: int, report: Report
) -> _Part:
    operator = item_filter(
        pairs.user_E,
        pairs.item_E,
        num_users=interactions.num_users,
        num_items=interactions.num_items,
        weight_E=pairs.weight_E,
        user_degree=user_degree,
    )
    values_K, vectors_MK = largest_eigenvalues(
        operator, rank, seed=config.train.seed, report=lambda done, of: report("eigenvectors", done, of)
    )
    popularity_M = np.bincount(pairs.item_E, minlength=interactions.num_items).astype(np.float32)
    return _Part(operator=operator, values_K=values_K, vectors_MK=vectors_MK, popularity_M=popularity_M)


def fitted_pairs(interactions: Interactions) -> Pairs:
    """The training pairs that count (``data.since``); the others are known to be taken."""
    train = interactions.train
    return train if interactions.fresh_E is None else train.where(interactions.fresh_E)


def evaluate_model(
    model: LinearModel, config: RetrievalRunConfig, interactions: Interactions, relevant: Pairs, *, test: bool
) -> tuple[RankingMetrics, UserValues]:
    """Rank all items for the users of ``relevant``, as a bundle does: arguments as of ``evaluate_users``."""
    return rank_scored(
        scores_of(model, histories(config, interactions, model.settings.weights, test=test)),
        num_items=interactions.num_items,
        relevant=relevant,
        excluded=masked_pairs(config, interactions) if test else (interactions.train,),
        list_length=config.train.list_length,
        candidates=interactions.candidates.get("test" if test else "validation"),
    )


def scores_of(model: LinearModel, history_NM: csr_matrix) -> Callable[[Int64Array], Tensor]:
    """Scores of all items for some users, [B, M]; -inf for items of which nothing was learnt."""
    near_MM, unknown_M = model.near_MM, ~model.learnt_M

    def score(users_B: Int64Array) -> Tensor:
        scores_BM = model.scores(history_NM[users_B], near_MM)
        scores_BM[:, unknown_M] = -np.inf
        return torch.from_numpy(scores_BM)

    return score


def load_fitted(run_dir: Path, interactions: Interactions) -> tuple[RetrievalRunConfig, Fitted]:
    """A run's configuration and its model.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not such a run, or a file of it is damaged.
    """
    config = read_retrieval_config(run_dir)
    compare(run_dir, interactions)
    return config, fitted_of(load(run_dir), run_dir, interactions)


def linear_config(config: RetrievalRunConfig) -> LinearConfig:
    """The model's part of a run's configuration."""
    assert isinstance(config.model, LinearConfig)
    return config.model


def within(model: LinearConfig, interactions: Interactions, notes: list[str]) -> LinearConfig:
    """Values that so few items, and data without times, allow; what they do not is added to ``notes``."""
    items = interactions.num_items
    ranks = tuple(sorted({min(rank, items) for rank in model.ranks}))
    neighbours = tuple(sorted({min(count, items - 1) for count in model.neighbours}))
    if max(ranks) < max(model.ranks) or max(neighbours) < max(model.neighbours):
        there_are = f"there are {items} items" if items != 1 else "there is 1 item"
        notes.append(f"{there_are}: ranks tried {list(ranks)}, neighbours {list(neighbours)}")
    model = dataclasses.replace(model, ranks=ranks, neighbours=neighbours)
    if interactions.histories:
        if all(events.time_ms_E is not None for events in interactions.histories.values()):
            return model
        if len(model.half_life_days) > 1:
            notes.append("the data are sequences without times: no weight by days is tried")
        return dataclasses.replace(model, half_life_days=(0.0,))
    if len(model.half_life_events) > 1 or len(model.half_life_days) > 1:
        notes.append("the data are pairs, without times and actions: each weighs the same")
    return dataclasses.replace(model, actions=False, half_life_events=(0.0,), half_life_days=(0.0,))


def _told(settings: Linear, trials: Sequence[Trial], list_length: int) -> str:
    (first, *_), (*_, last) = trials, (trial for trial in trials if trial.settings == settings)

    def figures(trial: Trial) -> str:
        of_candidates = (
            "" if trial.among_candidates is None else f", HR@10 among candidates {trial.among_candidates:.4f}"
        )
        return f"recall@{list_length} {trial.recall:.4f}{of_candidates}"

    return (
        f"chosen on validation of {len(trials)} settings: {settings} ({figures(last)} of a sample of users, as served; "
        f"the first tried, {first.settings}: {figures(first)})"
    )


def save_fitted(run_dir: Path, fitted: Fitted) -> None:
    """Write ``checkpoint.pt``."""
    model = fitted.model
    arrays = {name: torch.from_numpy(getattr(model, name)) for name in _ARRAYS}
    values = {
        "retrieval_format": FORMAT_VERSION,
        "linear": {
            "settings": dataclasses.asdict(model.settings),
            "arrays": arrays,
            "attributes": None if fitted.attributes is None else attributes_to_dict(fitted.attributes),
            "notes": list(fitted.notes),
            "train_s": fitted.train_s,
            "validation": None if fitted.validation is None else _stored(*fitted.validation),
        },
    }
    with atomic_file(run_dir / CHECKPOINT) as stream:
        torch.save(values, stream)


def _stored(metrics: RankingMetrics, of_users: UserValues) -> dict[str, Any]:
    values = {name: torch.from_numpy(of_G) for name, of_G in of_users.values.items()}
    return {"metrics": dataclasses.asdict(metrics), "users": torch.from_numpy(of_users.user_G), "values": values}


def _read(stored: dict[str, Any]) -> tuple[RankingMetrics, UserValues]:
    values = {name: of_G.numpy() for name, of_G in stored["values"].items()}
    return RankingMetrics(**stored["metrics"]), UserValues(user_G=stored["users"].numpy(), values=values)


_ARRAYS = ("history_MK", "items_MK", "near_MJ", "add_MJ", "popularity_M", "alone_K")


def fitted_of(checkpoint: dict[str, Any], run_dir: Path, interactions: Interactions) -> Fitted:
    """The content of a checkpoint; raises DataFileError if it is of another model."""
    try:
        stored = checkpoint["linear"]
        given = dict(stored["settings"])
        weights = dict(given.pop("weights"))
        weights["actions"] = tuple((int(key), float(weight)) for key, weight in weights["actions"])
        model = LinearModel(
            settings=Linear(**given, weights=HistoryWeights(**weights)),
            **{name: stored["arrays"][name].numpy() for name in _ARRAYS},
        )
        attributes = stored["attributes"]
        features = ids_of(interactions).features.item
        return Fitted(
            model=model,
            attributes=None if attributes is None else attributes_from_dict(attributes, features),
            notes=tuple(stored["notes"]),
            train_s=float(stored["train_s"]),
            validation=None if stored["validation"] is None else _read(stored["validation"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataFileError(f"{run_dir / CHECKPOINT}: not of a closed form: {error}") from error
