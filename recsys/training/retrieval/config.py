"""A run that trains a model to rank all items, as one frozen value, and dotted overrides of it."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.data.interactions.datasets import INTERACTION_SETS
from recsys.embeddings import WIDTH_UNIT
from recsys.errors import ConfigError, nearest
from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.models.retrieval.mf import MfConfig
from recsys.models.retrieval.ngcf import NgcfConfig
from recsys.training.config import convert_setting

ModelConfig = MfConfig | LightGcnConfig | NgcfConfig
MODELS: dict[str, type[MfConfig] | type[LightGcnConfig] | type[NgcfConfig]] = {
    "mf": MfConfig,
    "lightgcn": LightGcnConfig,
    "ngcf": NgcfConfig,
}
"""Models by the name that ``model.kind`` takes."""


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig:
    """What to train on.

    Attributes:
        dataset: one of ``INTERACTION_SETS``, or a folder of train.txt and test.txt, with a ``/`` in its name.
        validation_share: of each user's training pairs that are held out, without a validation part of its own; 0:
            train on all, for the number of epochs that validation chose before.
        mask_validation: whether validation pairs count as taken in the test, as training pairs do.
    """

    dataset: str = "gowalla"
    validation_share: float = 0.1
    mask_validation: bool = True


@dataclass(frozen=True, kw_only=True)
class RetrievalTrainConfig:
    """The loop: Adam on BPR with one negative per pair that the user did not take.

    Attributes:
        epochs: passes over the training pairs.
        batch_size: pairs per step, at most; an epoch's steps have equally many. 0: all pairs in one step.
        learning_rate: of Adam.
        negatives: uniform draws per pair; the one that its user scores highest is the negative
            (:func:`recsys.models.retrieval.mf.hardest_negatives`). 1: as the papers of BPR, NGCF and LightGCN have it.
        schedule: of the rate: ``constant``, ``cosine`` to zero at the end of the last epoch, or ``step``, which
            multiplies with ``decay`` every ``decay_epochs`` epochs.
        decay, decay_epochs: see ``schedule``.
        regularization: L2, half the mean over a batch's pairs of the squared vectors of user, item and negative.
        validate_every: epochs between validations.
        patience: stop after so many validations in a row without a better recall, and keep the best weights instead
            of the last; 0: train all epochs and keep the last.
        validation_users: whose items are ranked in validation, a fixed sample for all seeds; 0 for all.
        list_length: k of the metrics.
        fan_outs: neighbours per node that a batch samples, from the last layer to the first; the vectors are then
            TorchRec tables. Empty: every step propagates the whole graph.
        checkpoint_epochs: epochs between checkpoints.
        seed: of first vectors, order of pairs, negatives, dropout and neighbours.
    """

    epochs: int = 100
    batch_size: int = 100_000
    learning_rate: float = 0.02
    negatives: int = 1
    schedule: Literal["constant", "cosine", "step"] = "constant"
    decay: float = 0.1
    decay_epochs: int = 50
    regularization: float = 1e-4
    validate_every: int = 10
    patience: int = 0
    validation_users: int = 10_000
    list_length: int = 20
    fan_outs: tuple[int, ...] = ()
    checkpoint_epochs: int = 10
    seed: int = 2026


@dataclass(frozen=True, kw_only=True)
class RetrievalRunConfig:
    """A recipe's result: everything a run depends on."""

    recipe: str
    task: Literal["retrieval"] = "retrieval"
    data: InteractionsConfig = field(default_factory=InteractionsConfig)
    model: ModelConfig = field(default_factory=LightGcnConfig)
    train: RetrievalTrainConfig = field(default_factory=RetrievalTrainConfig)

    def __post_init__(self) -> None:
        model, train = self.model, self.train
        if self.data.dataset not in INTERACTION_SETS and "/" not in self.data.dataset:
            raise ConfigError(
                f"data.dataset is {self.data.dataset!r}: {nearest(self.data.dataset, INTERACTION_SETS)}; "
                f"or a folder, such as ./{self.data.dataset}"
            )
        self._check("data.validation_share", self.data.validation_share, least=0, below=1)
        self._check("model.dim", model.dim, least=WIDTH_UNIT)
        if model.dim % WIDTH_UNIT:
            raise ConfigError(f"recipe {self.recipe!r}: model.dim is {model.dim}; allowed: a multiple of {WIDTH_UNIT}")
        self._check("model.init_std", model.init_std, least=0)
        layers = 0 if isinstance(model, MfConfig) else model.layers
        if not isinstance(model, MfConfig):
            self._check("model.layers", layers, least=1)
        if isinstance(model, NgcfConfig):
            for name in ("message_dropout", "node_dropout", "slope"):
                self._check(f"model.{name}", getattr(model, name), least=0, below=1)
        if train.fan_outs and len(train.fan_outs) != layers:
            raise ConfigError(
                f"recipe {self.recipe!r}: train.fan_outs has {len(train.fan_outs)} values for {layers} layers; "
                "allowed: one per layer, or none"
            )
        for fan_out in train.fan_outs:
            self._check("train.fan_outs", fan_out, least=1)
        for name in ("epochs", "negatives", "validate_every", "list_length", "checkpoint_epochs", "decay_epochs"):
            self._check(f"train.{name}", getattr(train, name), least=1)
        for name in ("batch_size", "learning_rate", "decay", "regularization", "patience", "validation_users", "seed"):
            self._check(f"train.{name}", getattr(train, name), least=0)

    def _check(self, path: str, value: float, *, least: float, below: float = math.inf) -> None:
        if not least <= value < below:  # NaN is refused too
            most = "finite" if below == math.inf else f"below {below}"
            raise ConfigError(f"recipe {self.recipe!r}: {path} is {value}; allowed: {least} or more, {most}")


def to_json(config: RetrievalRunConfig) -> str:
    """Indented JSON of every setting."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> RetrievalRunConfig:
    """Inverse of :func:`to_json`.

    Raises:
        ConfigError: malformed, or a setting is unknown.
    """
    try:
        return typing.cast(RetrievalRunConfig, _build(RetrievalRunConfig, json.loads(text), ""))
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ConfigError(f"not the configuration of a retrieval run: {error}") from error


def override(config: RetrievalRunConfig, assignments: Sequence[str]) -> RetrievalRunConfig:
    """Apply ``path=value`` assignments.

    >>> config = override(RetrievalRunConfig(recipe="r"), ["model.kind=ngcf", "model.layers=2", "train.epochs=3"])
    >>> config.model.kind, config.model.layers, config.train.epochs
    ('ngcf', 2, 3)

    Raises:
        ConfigError: no such setting (names the nearest), or a value of the wrong type.
    """
    values = dataclasses.asdict(config)
    # Another kind of model begins with that kind's defaults, whatever the order of the assignments.
    for assignment in sorted(assignments, key=lambda a: not a.startswith("model.kind=")):
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"override {assignment!r}: expected path=value, for example train.epochs=3")
        _assign(values, path, text)
    return typing.cast(RetrievalRunConfig, _build(RetrievalRunConfig, values, ""))


def _assign(values: dict[str, Any], path: str, text: str) -> None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if path == "model.kind":
        values["model"] = dataclasses.asdict(_model(value)())
        return
    paths = [f"{section}.{name}" for section in ("data", "model", "train") for name in values[section]]
    if path not in paths:
        raise ConfigError(f"unknown setting {path!r}: {nearest(path, paths)}")
    section, _, name = path.partition(".")
    values[section][name] = value


def _model(kind: Any) -> type[MfConfig] | type[LightGcnConfig] | type[NgcfConfig]:
    if kind not in MODELS:
        raise ConfigError(f"model.kind is {kind!r}: {nearest(str(kind), MODELS)}")
    return MODELS[kind]


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {prefix + name!r}: {nearest(name, hints)}")
        if name == "model":
            arguments[name] = _build(_model(value.get("kind", "lightgcn")), value, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(hints[name]):
            arguments[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            arguments[name] = convert_setting(prefix + name, value, hints[name])
    return kind(**arguments)
