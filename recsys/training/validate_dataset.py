"""Validation of a data set before hours are spent on it."""

from __future__ import annotations

import numpy as np

from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.config import RunConfig, TrainConfig
from recsys.training.early_stopping import needs_validation, no_value


def validate_dataset(config: RunConfig, dataset: Dataset) -> None:
    """Refuse data that nothing can be learnt from, or whose metrics would not be defined.

    Args:
        config: the run.
        dataset: with keys.

    Raises:
        InvalidInputError: no training samples; a split with one label only; a number that is not finite.
        ConfigError: steps would change nothing; the run needs a validation split, and there is none, or the
            monitored metric has no value there, or can never improve.
    """
    _check_settings(config.train)
    if not len(dataset):
        raise InvalidInputError(
            "the log was prepared without samples, so there is nothing to train on; prepare it with --label, --labels "
            "or --negatives (docs/guides/data.md)"
        )
    if not len(dataset.split("train")):
        raise InvalidInputError("the train split is empty: there is nothing to train on")
    if (setting := needs_validation(config.train)) and not len(dataset.split("validation")):
        raise ConfigError(
            f"{setting} looks at the validation split, which is empty; declare one, or train without: train.patience=0 "
            "and another train.schedule"
        )
    for name in ("train", "validation", "test"):
        labels = dataset.samples.label[dataset.split(name)]
        if len(labels) and labels.min() == labels.max():
            why = "there is nothing to learn" if name == "train" else "AUC is not defined there"
            raise InvalidInputError(
                f"the {name} split: all {len(labels):,} labels are {labels[0]}; {why}. Give it samples of both labels"
                + ("" if name == "train" else ", or leave the split empty")
            )
    _check_monitor(config, dataset)
    _check_numbers(dataset)


def _check_settings(train: TrainConfig) -> None:
    """Refuse settings with which a run would take its steps and learn nothing."""
    ends_at_zero = train.schedule == "plateau" or (train.schedule == "step" and train.epochs > train.decay_epochs)
    if not train.decay and ends_at_zero:
        when = "after the first evaluation without an improvement"
        if train.schedule == "step":
            when = f"after epoch {train.decay_epochs}"
        raise ConfigError(
            f"train.decay is 0 with train.schedule {train.schedule}: the rates would be 0 {when}, and no step would "
            "change anything; give a decay above 0, or fewer epochs"
        )
    if needs_validation(train) and train.monitor in ("auc", "gauc") and train.min_delta >= 1:
        raise ConfigError(
            f"train.min_delta is {train.min_delta:g}, and train.monitor {train.monitor} is at most 1: no evaluation "
            "could be an improvement; give one below 1, such as 0.001"
        )


def _check_monitor(config: RunConfig, dataset: Dataset) -> None:
    """GAUC needs a user with both labels. The numbers of such users do not depend on what a model says."""
    indices = dataset.split("validation")
    if config.train.monitor == "gauc" and len(indices):
        label, user = dataset.samples.label[indices], dataset.sample_user[indices]
        if not len(np.intersect1d(user[label == 0], user[label == 1])):
            raise no_value("gauc")


def _check_numbers(dataset: Dataset) -> None:
    sides = {"user": dataset.user, "item": dataset.item, "context": dataset.context, "history": dataset.history}
    for side, columns in sides.items():
        for name, column in columns.items():
            if column.dtype.kind == "f" and np.isinf(column).any():
                bad = np.flatnonzero(np.isinf(column))
                raise InvalidInputError(
                    f"numeric {side} feature {name!r}: {len(bad):,} of {len(column):,} values are not finite, the "
                    f"first {column[bad[0]]} in row {bad[0]}; allowed: finite numbers, and NaN for a missing one"
                )
