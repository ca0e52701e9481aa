"""Evaluation of a model that ranks all items, in its run and after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.errors import ConfigError
from recsys.evaluation.baselines import RESAMPLES, Baseline, baselines_of_lists
from recsys.evaluation.predictions import UserValues, write_user_values
from recsys.models.registry import CLOSED_FORMS, SEQUENCE_MODELS
from recsys.training.retrieval.baselines import with_baselines
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import read_retrieval_config
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.linear.baseline import BUDGET_S, baseline_seconds, linear_baseline
from recsys.training.retrieval.linear.fit import evaluate_model, load_fitted, scores_of
from recsys.training.retrieval.linear.histories import histories
from recsys.training.retrieval.ranking import RankingMetrics, rank_users, sample_users, top_items, top_scored
from recsys.training.retrieval.segments import ListDetails, list_details
from recsys.training.retrieval.trained import load_trained, masked_pairs, of_run
from recsys.training.retrieval.trainers import RetrievalTrainer
from recsys.training.retrieval.two_tower.trained import load_two_tower


def evaluate_retrieval_run(run_dir: Path, interactions: Interactions, split: str) -> RankingMetrics:
    """Metrics of a run's model on its validation or test part, of all users; those of each user stay in its folder.

    Of the validation part of a run with ``model.refit`` they are of its sample of users, as
    :func:`compare_with_baselines` has them.

    Raises:
        ConfigError: other data than the run's, or no such split.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        InvalidInputError: the part is empty.
    """
    return compare_with_baselines(run_dir, interactions, split)[0]


def compare_with_baselines(
    run_dir: Path, interactions: Interactions, split: str
) -> tuple[RankingMetrics, tuple[Baseline, ...]]:
    """As :func:`evaluate_retrieval_run`, beside popularity, chance and the closed form.

    Of a model that has learnt from the validation part, too (``model.refit``), the metrics there are those that were
    measured before, of ``train.validation_users`` users. Other models are measured on all users there;
    :func:`recsys.evaluation.comparison.shared_users` compares both on those of the sample.
    """
    if split not in ("validation", "test"):
        raise ConfigError(f"split is {split!r}; allowed for a model that ranks all items: validation, test")
    interactions, _ = of_run(run_dir, interactions)
    relevant = getattr(interactions, split)
    if read_retrieval_config(run_dir).model.kind in CLOSED_FORMS:
        config, fitted = load_fitted(run_dir, interactions)
        if split == "validation" and fitted.validation is not None:
            relevant = sample_users(relevant, config.train.validation_users)
            metrics, of_users = fitted.validation
        else:
            metrics, of_users = evaluate_model(fitted.model, config, interactions, relevant, test=split == "test")
    elif read_retrieval_config(run_dir).model.kind in SEQUENCE_MODELS:
        config, learner = load_two_tower(run_dir, interactions)
        metrics, of_users = learner.evaluate(relevant, test=split == "test")
    else:
        config, trainer, known = load_trained(run_dir, interactions)
        metrics, of_users = evaluate_users(trainer, known, config, interactions, relevant, test=split == "test")
    of_users, baselines = beside(of_users, config, interactions, relevant, test=split == "test")
    write_user_values(run_dir, {split: of_users})
    return metrics, baselines


def evaluate_users(
    trainer: RetrievalTrainer,
    known: Known,
    config: RetrievalRunConfig,
    interactions: Interactions,
    relevant: Pairs,
    *,
    test: bool,
) -> tuple[RankingMetrics, UserValues]:
    """Rank all items for the users of ``relevant``, as a bundle does: means of the metrics, and their values by user.

    A user of whom the model knows nothing has the list of the most popular items; an item of which it knows nothing is
    in no list, and is missed where it is relevant.

    Args:
        trainer: its vectors are ranked.
        known: ids of which it learnt something.
        config: of the run.
        interactions: of the run.
        relevant: the items to find.
        test: leave out what the test leaves out: with ``data.mask_validation`` also the validation pairs.
    """
    users_ND, items_MD = served_vectors(*trainer.vectors(), known, interactions)
    return rank_users(
        users_ND,
        items_MD,
        relevant=relevant,
        excluded=_excluded(config, interactions, test=test),
        list_length=config.train.list_length,
        barred_M=~known.items_M,
        candidates=interactions.candidates.get("test" if test else "validation"),
    )


def lists_of_run(
    run_dir: Path, interactions: Interactions, ranked_G: Int64Array, *, test: bool, length: int = 0
) -> Int64Array:
    """Lists that a run's model has for these ascending users, as a bundle gives them: [G, length], -1 for none.

    Args:
        run_dir: of the run.
        interactions: of it.
        ranked_G: users.
        test: as of :func:`evaluate_users`.
        length: of a list; 0: as the run has it.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config = read_retrieval_config(run_dir)
    interactions, _ = of_run(run_dir, interactions)
    length = min(length or config.train.list_length, interactions.num_items)
    excluded = _excluded(config, interactions, test=test)
    if config.model.kind in CLOSED_FORMS:
        fitted = load_fitted(run_dir, interactions)[1]
        if not test and fitted.validation is not None:
            raise ConfigError(
                f"{run_dir}: the model has learnt from the validation part, too (model.refit); lists of its users were "
                "measured before that, and not kept. Allowed: the test part, or a run with model.refit=false"
            )
        model = fitted.model
        score = scores_of(model, histories(config, interactions, model.settings.weights, test=test))
        items = interactions.num_items
        return top_scored(score, ranked_G, num_items=items, excluded=excluded, list_length=length)
    if config.model.kind in SEQUENCE_MODELS:
        score = load_two_tower(run_dir, interactions)[1].score(ranked_G, test=test)
        items = interactions.num_items
        return top_scored(score, ranked_G, num_items=items, excluded=excluded, list_length=length)
    _, trainer, known = load_trained(run_dir, interactions)
    vectors = served_vectors(*trainer.vectors(), known, interactions)
    return top_items(*vectors, ranked_G, excluded=excluded, list_length=length, barred_M=~known.items_M)


def details_of_run(run_dir: Path, interactions: Interactions, split: str) -> ListDetails:
    """Segments and novelty of a run's lists on its validation or test part, of all users; raises as
    :func:`evaluate_retrieval_run`."""
    interactions, _ = of_run(run_dir, interactions)
    relevant: Pairs = getattr(interactions, split)
    found_Gk = lists_of_run(run_dir, interactions, np.unique(relevant.user_E), test=split == "test")
    return list_details(found_Gk, relevant, interactions)


def served_vectors(
    users_ND: Tensor, items_MD: Tensor, known: Known, interactions: Interactions
) -> tuple[Tensor, Tensor]:
    """Vectors whose products are a bundle's scores: for a user that is not known they are the items' popularity."""
    if known.users_N.all():
        return users_ND, items_MD
    taken_M = np.bincount(interactions.train.item_E, minlength=interactions.num_items)
    new_N1 = torch.from_numpy(~known.users_N).to(users_ND.dtype)[:, None]
    popularity_M1 = torch.from_numpy(taken_M).to(items_MD.dtype)[:, None]
    return torch.cat([users_ND * (1 - new_N1), new_N1], dim=1), torch.cat([items_MD, popularity_M1], dim=1)


def beside(
    of_users: UserValues,
    config: RetrievalRunConfig,
    interactions: Interactions,
    relevant: Pairs,
    *,
    test: bool,
    linear_s: float = BUDGET_S,
) -> tuple[UserValues, tuple[Baseline, ...]]:
    """The values of a model's users with those of popularity, chance and ``linear``, and each with the model's lead.

    The closed form with fixed settings is left out beside closed forms, and where it would take more seconds than
    ``linear_s``.
    """
    excluded, list_length = _excluded(config, interactions, test=test), config.train.list_length
    candidates = interactions.candidates.get("test" if test else "validation")
    of_users, means = with_baselines(
        of_users, interactions, relevant, excluded=excluded, list_length=list_length, candidates=candidates
    )
    if config.model.kind not in CLOSED_FORMS and baseline_seconds(interactions, relevant) <= linear_s:
        values, means["linear"] = linear_baseline(
            interactions, relevant, excluded=excluded, list_length=list_length, candidates=candidates
        )
        of_users = replace(of_users, baselines={**of_users.baselines, "linear": values})
    return of_users, baselines_of_lists(of_users, means, resamples=RESAMPLES)


def _excluded(config: RetrievalRunConfig, interactions: Interactions, *, test: bool) -> tuple[Pairs, ...]:
    return masked_pairs(config, interactions) if test else (interactions.train,)
