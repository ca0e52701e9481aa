"""A run of a closed form: settings chosen on validation, one fit, one evaluation.

The folder is that of every run that ranks all items. A checkpoint is written once, after the fit: a run that was killed
before it begins anew, and says so; one that was killed after it only measures again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recsys.data.interactions.pairs import Interactions
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.predictions import USER_FILE, write_user_values
from recsys.models.retrieval.linear import HALVED, OPEN, memory_bytes
from recsys.training.distributed.processes import check_alone
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import beside
from recsys.training.retrieval.folder import open_retrieval_run
from recsys.training.retrieval.known import lost_pairs
from recsys.training.retrieval.linear.choice import USERS, is_open
from recsys.training.retrieval.linear.fit import (
    evaluate_model,
    fit,
    fitted_of,
    fitted_pairs,
    linear_config,
    save_fitted,
    within,
)
from recsys.training.retrieval.loop import RetrievalProgress, RetrievalRunResult, check_parts, write_result
from recsys.training.retrieval.ranking import sample_users
from recsys.training.run.record import begin_record


def train_closed_form(
    config: RetrievalRunConfig,
    interactions: Interactions,
    run_dir: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[RetrievalProgress], None] = lambda progress: None,
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> RetrievalRunResult:
    """Choose, fit, test, and write everything to ``run_dir``; arguments as of ``train_retrieval_run``.

    Raises:
        ConfigError: as there; a setting has several values without a validation part to choose on; or the run would
            take more memory than ``model.memory_gib``.
        DataFileError: the checkpoint is damaged or of another model.
        InvalidInputError: train or test is empty.
    """

    def told(what: str, done: int, of: int) -> None:
        report(
            RetrievalProgress(
                step=done, steps=of, epoch=0, epochs=0, samples_per_s=0.0, eta_s=0.0, loss=0.0, stage=what
            )
        )

    check_alone(f"the recipe {config.recipe}, which ranks all items,")
    check_parts(config, interactions)
    _check_run(config, interactions)
    start = begin_record(recipe=config.recipe, overrides=overrides, seed=config.train.seed)
    was_there = (run_dir / "config.json").exists()
    checkpoint = open_retrieval_run(config, interactions, run_dir, resume=resume)
    if checkpoint is not None:
        fitted = fitted_of(checkpoint, run_dir, interactions)
    else:
        fitted = fit(config, interactions, told)
        save_fitted(run_dir, fitted)
    notes = (*fitted.notes, *lost_pairs(interactions, fitted.model.learnt_M))
    if was_there and checkpoint is None:
        notes = ("the run was killed before it was fitted; it began anew", *notes)
    show_notes(notes)
    told("measuring", 0, 0)
    sample = sample_users(interactions.validation, config.train.validation_users)
    validation, baselines = None, {}
    if len(sample):
        validation, of_users = fitted.validation or evaluate_model(
            fitted.model, config, interactions, sample, test=False
        )
        baselines["validation"] = beside(of_users, config, interactions, sample, test=False)[1]
    test, of_users = evaluate_model(fitted.model, config, interactions, interactions.test, test=True)
    of_users, baselines["test"] = beside(of_users, config, interactions, interactions.test, test=True)
    (run_dir / USER_FILE).unlink(missing_ok=True)
    write_user_values(run_dir, {"test": of_users})
    result = RetrievalRunResult(
        test=test,
        baselines=baselines,
        validation=validation,
        best_epoch=None,
        epochs=0,
        train_s=fitted.train_s,
        pairs_per_s=len(interactions.train) / fitted.train_s,
        users_ND=torch.empty(0, fitted.model.items_MK.shape[1]),
        items_MD=torch.from_numpy(fitted.model.items_MK),
        notes=notes,
    )
    write_result(config, run_dir, result, start)
    return result


def _check_run(config: RetrievalRunConfig, interactions: Interactions) -> None:
    model = linear_config(config)
    if not len(fitted_pairs(interactions)):
        raise InvalidInputError(f"{interactions.source}: data.since leaves no training pair")
    timed = bool(interactions.histories) and all(
        events.time_ms_E is not None for events in interactions.histories.values()
    )
    lacking = () if timed else HALVED[1:] if interactions.histories else HALVED
    data = "sequences" if interactions.histories else "pairs"
    for name in lacking:
        if min(values := getattr(model, name)) > 0:
            raise ConfigError(
                f"model.{name} is {list(values)}, but the data are {data} without times; allowed: [0], or a log of "
                "`recsys prepare`"
            )
    model = within(model, interactions, [])
    if is_open(model) and not len(interactions.validation):
        several = next(name for name in OPEN if len(getattr(model, name)) > 1)
        advice = "set data.validation_share above 0, or give"
        if share := config.data.validation_share:
            advice = f"no user has a pair to spare for data.validation_share {share}; give"
        raise ConfigError(
            f"model.{several} has several values, but there is no validation part to choose on; {advice} "
            f"one value, such as model.{several}=[{getattr(model, several)[0]}]"
        )
    size = memory_bytes(
        users=interactions.num_users,
        items=interactions.num_items,
        pairs=len(interactions.train) + len(interactions.validation),
        validated=USERS if is_open(model) or model.actions else 0,
        rank=max(model.ranks),
        neighbours=max(model.neighbours),
    )
    if size > model.memory_gib * 2**30:
        raise ConfigError(
            f"the run would take {size / 2**30:.1f} GiB of memory for {interactions.num_users:,} users and "
            f"{interactions.num_items:,} items; allowed by model.memory_gib: {model.memory_gib:g}. Raise it, or give "
            "smaller model.ranks and model.neighbours"
        )
