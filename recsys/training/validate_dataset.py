"""Validation of a data set before hours are spent on it."""

from __future__ import annotations

import numpy as np

from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.config import RunConfig
from recsys.training.early_stopping import needs_validation, no_value


def validate_dataset(config: RunConfig, dataset: Dataset) -> None:
    """Refuse data that nothing can be learnt from, or whose metrics would not be defined.

    Args:
        config: the run.
        dataset: with keys.

    Raises:
        InvalidInputError: no training samples; a split with one label only; a number that is not finite.
        ConfigError: the run needs a validation split, and there is none, or the monitored metric has no value there.
    """
    if not len(dataset):
        raise InvalidInputError(
            "the log was prepared without samples, so there is nothing to train on; prepare it with --label, --labels "
            "or --negatives (docs/data.md)"
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
