"""Minibatch training of models that rank all items, by the protocol of NGCF and LightGCN.

BPR with a uniform negative per pair that the user did not take; per-batch L2; validation on a tenth of each user's
training pairs (or a published part) that chooses settings and the number of epochs; then a run on all of train for so
many epochs (``data.validation_share=0``), and one test of it. Metrics of all items but those taken in training.

A run's folder holds ``config.json``, ``data.json`` (fingerprint of the pairs), ``checkpoint.pt``, ``record.json`` and,
written last, ``metrics.json``. A run that was killed goes on from its checkpoint to the same last digit, with as many
threads; an epoch is done again from its beginning.

A user or item in no training pair is allowed: such a user's list is that of the most popular items, such an item is in
no list (``known.py``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.data.interactions.pairs import Interactions
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.baselines import Baseline, baseline_values, baselines_json
from recsys.evaluation.predictions import USER_FILE, write_user_values
from recsys.files import write_atomically
from recsys.models.registry import CLOSED_FORMS
from recsys.models.retrieval.network import VectorConfig
from recsys.models.retrieval.svd_start import svd_vectors
from recsys.training.distributed.processes import check_alone
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import beside
from recsys.training.retrieval.folder import RunState, open_retrieval_run, read_known, save
from recsys.training.retrieval.frozen.index import frozen_for, keep_frozen, kept_frozen
from recsys.training.retrieval.known import drawn_pairs, known_ids, lost_pairs
from recsys.training.retrieval.learners.learner import Learner
from recsys.training.retrieval.learners.pairs import PairLearner
from recsys.training.retrieval.pairs.rows import describe_rows, kept_maps, maps_for, save_maps
from recsys.training.retrieval.ranking import RankingMetrics, metric_values, sample_users
from recsys.training.retrieval.trained import make_trainer
from recsys.training.retrieval.warm_start import begin_with, open_older_run
from recsys.training.run.folder import CHECKPOINT
from recsys.training.run.record import RecordStart, begin_record, write_record
from recsys.training.schedules import decayed

BASELINE_SHARE, LEAST_BASELINE_S = 0.1, 1.0
"""Share of a run's seconds that the closed form may take as a baseline, and the seconds that it always may."""


@dataclass(frozen=True, kw_only=True)
class RetrievalProgress:
    """A step that is done, or an epoch's validation; of a closed form, how far a stage of it is."""

    step: int
    steps: int
    epoch: int
    epochs: int
    samples_per_s: float
    eta_s: float
    loss: float
    validation: RankingMetrics | None = None
    stage: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalRunResult:
    """Measurements of a finished run.

    Attributes:
        test: of the weights kept.
        baselines: of both, by split.
        validation: of the same, on the sample of users; None: there is no validation part.
        best_epoch: whose weights were kept; None: the last, nothing was chosen.
        epochs: that were trained.
        train_s: seconds of training, validations left out.
        pairs_per_s: training pairs per second, of this process.
        users_ND, items_MD: final vectors; of a closed form, which has none of users, the items' alone.
        notes: a sentence each on what was chosen or left out, and on what a warm start took.
    """

    test: RankingMetrics
    baselines: Mapping[str, tuple[Baseline, ...]]
    validation: RankingMetrics | None
    best_epoch: int | None
    epochs: int
    train_s: float
    pairs_per_s: float
    users_ND: Tensor
    items_MD: Tensor
    notes: tuple[str, ...]


def train_retrieval_run(
    config: RetrievalRunConfig,
    interactions: Interactions,
    run_dir: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[RetrievalProgress], None] = lambda progress: None,
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> RetrievalRunResult:
    """Train, validate, test, and write everything to ``run_dir``.

    Args:
        config: the run.
        interactions: with a train and a test part.
        run_dir: made if absent.
        resume: go on from ``run_dir``'s checkpoint.
        overrides: how the configuration differs from the recipe's, for the record.
        report: called after each step and validation.
        show_notes: called before the first step with the notes of the result.

    Raises:
        ConfigError: ``run_dir`` holds a run and ``resume`` is false, or one of another configuration or other data;
            ``train.patience`` is set without a validation part; lists are to be longer than there are items;
            ``train.warm_start`` or ``train.freeze_items`` is of no use; or there is more than one process.
        BundleError: that of ``train.freeze_items`` is damaged.
        DataFileError: the checkpoint is damaged or of another model.
        InvalidInputError: train or test is empty, every user took all items, or the loss or a vector is not finite.
    """
    check_alone(f"the recipe {config.recipe}, which ranks all items,")
    check_parts(config, interactions)
    given = interactions
    resumed = resume and (run_dir / CHECKPOINT).exists()
    index, begun = frozen_for(config, given, run_dir if resumed else None)
    if index is not None:
        interactions = index.beside(given)
    learnt = given if index is None else index.part(interactions)
    drawn, notes = drawn_pairs(learnt)
    if index is not None:
        notes = (*notes, index.told(given, learnt))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        # Before the folder is made: what the data refuses must leave no run in the way of the corrected one.
        maps = maps_for(config, interactions, run_dir if resumed else None)
        trainer = make_trainer(config, interactions, index, maps)
        notes = (*notes, *describe_rows(maps, interactions))
        if index is None:
            known = known_ids(interactions, drawn, layers=config.model.layers)
        else:
            known = index.known(interactions, learnt)
        older = None if resumed else open_older_run(config)
        if older is not None:
            taken, said = begin_with(older, trainer, interactions, maps)
            known, notes = known.and_those_of(taken), (*notes, said)
        elif getattr(config.model, "start", "random") == "svd" and not resumed:
            assert isinstance(config.model, VectorConfig)
            train, sizes = interactions.train, (interactions.num_users, interactions.num_items)
            trainer.begin(*svd_vectors(config.model, train.user_E, train.item_E, *sizes, train.weight_E), {})
        if begun is not None:
            taken, said = begun.begin(trainer, interactions, learnt)
            known, notes = known.and_those_of(taken), (*notes, said)
        notes = (*notes, *lost_pairs(interactions, known.items_M))
        checkpoint = open_retrieval_run(config, interactions, run_dir, resume=resume)
        if checkpoint is not None:
            kept_maps(config, run_dir)  # they are there
            known, notes = read_known(checkpoint), tuple(checkpoint.get("notes", notes))
        else:
            save_maps(config, maps, run_dir)
        if index is not None and kept_frozen(run_dir) is None:
            if checkpoint is not None:
                trainer.load_state_dict(checkpoint["model"])  # refuses another index than the one that was lost
            keep_frozen(index, run_dir)
        show_notes(notes)
        learner = PairLearner(trainer, known, config=config, interactions=interactions, drawn=drawn)
        return run_epochs(
            config,
            interactions,
            run_dir,
            learner,
            checkpoint=checkpoint,
            notes=notes,
            overrides=overrides,
            report=report,
        )


def check_parts(config: RetrievalRunConfig, interactions: Interactions) -> None:
    """Refuse a run that its data cannot serve.

    Raises:
        ConfigError: ``train.patience`` is set without a validation part, lists are longer than there are items, or the
            rate is 0, from the beginning or after ``train.decay_epochs``.
        InvalidInputError: train or test is empty.
    """
    train = config.train
    if not train.learning_rate:
        raise ConfigError("train.learning_rate is 0: no step would change anything; give one above 0")
    if train.schedule == "step" and not train.decay and train.epochs > train.decay_epochs:
        raise ConfigError(
            f"train.decay is 0 with train.schedule step: the rate would be 0 after epoch {train.decay_epochs}, and no "
            "step would change anything; give a decay above 0, or fewer epochs"
        )
    if config.train.list_length > interactions.num_items:
        raise ConfigError(
            f"train.list_length is {config.train.list_length}; allowed: at most the {interactions.num_items} items"
        )
    for name in ("train", "test"):
        if not len(getattr(interactions, name)):
            raise InvalidInputError(f"{interactions.source}: the {name} part is empty; expected at least one pair")
    if config.train.patience and config.model.kind not in CLOSED_FORMS and not len(interactions.validation):
        advice = "set data.validation_share above 0, or train.patience=0"
        if share := config.data.validation_share:
            advice = f"no user has a pair to spare for data.validation_share {share}; set train.patience=0"
        raise ConfigError(f"train.patience is {config.train.patience}, but there is no validation part; {advice}")


def run_epochs(
    config: RetrievalRunConfig,
    interactions: Interactions,
    run_dir: Path,
    learner: Learner,
    *,
    checkpoint: dict[str, Any] | None,
    notes: tuple[str, ...],
    overrides: Sequence[str],
    report: Callable[[RetrievalProgress], None],
) -> RetrievalRunResult:
    """The epochs of a run whose folder is open, with validations and checkpoints, and its test.

    Args:
        config, interactions, run_dir, overrides, report: as of :func:`train_retrieval_run`.
        learner: as it begins.
        checkpoint: to go on from; None: none.
        notes: of the result.

    Raises:
        InvalidInputError: the loss or a vector is not finite.
    """
    train = config.train
    start = begin_record(recipe=config.recipe, overrides=overrides, seed=train.seed)
    # The data decides no order of draws: one generator for pairs, negatives and neighbours, torch's own for dropout.
    generator = torch.Generator().manual_seed(train.seed)
    state, best_weights = RunState(), None
    if checkpoint is not None:
        state = RunState(**checkpoint["progress"])
        learner.load_state_dict(checkpoint["model"])
        generator.set_state(checkpoint["generator"].clone())
        torch.set_rng_state(checkpoint["random"].clone())
        best_weights = checkpoint["best_weights"]
    pairs, per_epoch = learner.pairs, learner.steps
    sample = sample_users(interactions.validation, train.validation_users)
    validation: RankingMetrics | None = None
    done, spent_s = 0, 0.0

    def is_over() -> bool:
        return state.epoch >= train.epochs or 0 < train.patience <= state.waited

    while not is_over():
        state.epoch += 1
        for number, (batch, size) in enumerate(learner.batches(generator)):
            began = time.perf_counter()
            taken = (state.epoch - 1) * per_epoch + number
            rate = train.learning_rate * decayed(
                train.schedule,
                done=taken / per_epoch / train.epochs,
                epoch=state.epoch - 1,
                decay=train.decay,
                decay_epochs=train.decay_epochs,
            )
            loss = learner.step(batch, generator, rate=rate, taken=taken)
            if not math.isfinite(loss):
                raise _not_finite(f"epoch {state.epoch}, step {number + 1} of {per_epoch}: the loss is {loss}", run_dir)
            state.train_s += time.perf_counter() - began
            spent_s += time.perf_counter() - began
            done += size
            left = train.epochs * per_epoch - taken - 1
            progress = RetrievalProgress(
                step=taken + 1,
                steps=train.epochs * per_epoch,
                epoch=state.epoch,
                epochs=train.epochs,
                samples_per_s=done / spent_s,
                eta_s=left * (pairs / per_epoch) * spent_s / done,
                loss=loss,
            )
            report(progress)
        if len(sample) and (state.epoch % train.validate_every == 0 or state.epoch == train.epochs):
            validation = learner.evaluate(sample, test=False)[0]
            report(dataclasses.replace(progress, validation=validation))
            if state.best is None or validation.recall > state.best:
                state.best, state.best_epoch, state.waited = validation.recall, state.epoch, 0
                best_weights = learner.weights() if train.patience else None
            else:
                state.waited += 1
        # Also after the last: an evaluation of the run finds the best weights there.
        if state.epoch % train.checkpoint_epochs == 0 or is_over():
            if not learner.is_finite():
                raise _not_finite(f"epoch {state.epoch}: it left vectors that are not finite", run_dir)
            save(run_dir, learner, state, generator, best_weights, notes)

    if train.patience:
        assert best_weights is not None  # patience needs validations, and the last epoch has one
        learner.load_state_dict(best_weights)
    linear_s = max(LEAST_BASELINE_S, BASELINE_SHARE * state.train_s)
    validation, baselines = None, {}
    if len(sample):
        validation, of_users = learner.evaluate(sample, test=False)
        baselines["validation"] = beside(of_users, config, interactions, sample, test=False, linear_s=linear_s)[1]
    users_ND, items_MD = learner.vectors()
    test, of_users = learner.evaluate(interactions.test, test=True)
    of_users, baselines["test"] = beside(
        of_users, config, interactions, interactions.test, test=True, linear_s=linear_s
    )
    # Of the validation part there may be values of an evaluation made halfway, of weights that are no more.
    (run_dir / USER_FILE).unlink(missing_ok=True)
    write_user_values(run_dir, {"test": of_users})
    result = RetrievalRunResult(
        test=test,
        baselines=baselines,
        validation=validation,
        best_epoch=state.best_epoch if train.patience else None,
        epochs=state.epoch,
        train_s=state.train_s,
        pairs_per_s=state.epoch * pairs / state.train_s,
        users_ND=users_ND,
        items_MD=items_MD,
        notes=(*notes, *learner.told()),
    )
    write_result(config, run_dir, result, start)
    return result


def _not_finite(what: str, run_dir: Path) -> InvalidInputError:
    has_one = (run_dir / CHECKPOINT).exists()
    kept = "The last checkpoint is of before that" if has_one else "There was no checkpoint yet"
    return InvalidInputError(f"{what}; lower train.learning_rate. {kept}")


def write_result(config: RetrievalRunConfig, run_dir: Path, result: RetrievalRunResult, start: RecordStart) -> None:
    """Write the record and the metrics of a run that is done."""
    splits = {"validation": result.validation, "test": result.test}
    metrics = {name: metric_values(values) for name, values in splits.items() if values is not None}
    write_record(
        run_dir,
        start,
        train_s=result.train_s,
        samples_per_s=result.pairs_per_s,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        metrics=metrics,
        baselines={split: baseline_values(found) for split, found in result.baselines.items()},
        notes=result.notes,
    )
    beside = {split: baselines_json(found) for split, found in result.baselines.items()}
    values = {**metrics, "baselines": beside, "epochs": result.epochs, "best_epoch": result.best_epoch}
    write_atomically(run_dir / "metrics.json", json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")
