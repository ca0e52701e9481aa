"""One training run as one frozen value, and dotted overrides of it (``train.epochs=2``)."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.data.raw_log import DATASETS
from recsys.embeddings import WIDTH_UNIT
from recsys.errors import ConfigError, nearest
from recsys.models.din import DinConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        dataset: ``movielens_1m``, ``synthetic``, or a folder that ``recsys prepare`` wrote, with a ``/`` in its name.
        recent: newest events of the history that a sample reads.
    """

    dataset: str = "movielens_1m"
    recent: int = 50


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Embedding tables.

    Attributes:
        dim: width of a table that ``dims`` does not name; a multiple of 4.
        dims: width by table name.
        min_count: ids seen less often in training share the unknown row.
        optimizer: fused sparse optimiser: ``rowwise_adagrad``, ``adagrad`` or ``sgd``.
        learning_rate: of the fused optimiser.
        regularization: DIN's mini-batch-aware L2, lambda (KDD 2018, section 5.1): an id in the
            batch is pulled to zero with strength lambda / (its count in training).
    """

    dim: int = 16
    dims: Mapping[str, int] = field(default_factory=dict)
    min_count: int = 2
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd"] = "rowwise_adagrad"
    learning_rate: float = 0.02
    regularization: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step and process.
        learning_rate: of Adam on everything but the tables; falls to zero along a half cosine,
            as does the tables' rate.
        warmup_steps: steps in which the rates rise linearly from zero.
        weight_decay: decoupled, on everything but the tables.
        clip_norm: largest gradient norm of everything but the tables; 0 for no limit.
        seed: of initial weights, sample order and dropout.
        checkpoint_steps: steps between checkpoints.
    """

    epochs: int = 2
    batch_size: int = 1024
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    seed: int = 2026
    checkpoint_steps: int = 500


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A recipe's result: everything a run depends on."""

    recipe: str
    data: DataConfig = field(default_factory=DataConfig)
    model: DinConfig = field(default_factory=DinConfig)
    tables: TableConfig = field(default_factory=TableConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.dataset not in DATASETS and "/" not in self.data.dataset:
            raise ConfigError(
                f"data.dataset is {self.data.dataset!r}: {nearest(self.data.dataset, DATASETS)}; "
                f"or the folder of a prepared log, such as ./{self.data.dataset}"
            )
        _check_at_least(self, "data.recent", self.data.recent, 1)
        for units in (*self.model.attention, *self.model.head):
            _check_at_least(self, "hidden units of the model", units, 1)
        _check_at_least(self, "model.dropout", self.model.dropout, 0)
        if self.model.dropout >= 1:
            raise ConfigError(f"recipe {self.recipe!r}: model.dropout is {self.model.dropout}; allowed: below 1")
        for path, dim in {"dim": self.tables.dim, **{f"dims.{t}": d for t, d in self.tables.dims.items()}}.items():
            if dim < 1 or dim % WIDTH_UNIT:
                raise ConfigError(
                    f"recipe {self.recipe!r}: tables.{path} is {dim}; allowed: a multiple of {WIDTH_UNIT}"
                )
        _check_at_least(self, "tables.min_count", self.tables.min_count, 1)
        for name in ("learning_rate", "regularization"):
            _check_at_least(self, f"tables.{name}", getattr(self.tables, name), 0)
        for name in ("batch_size", "epochs", "checkpoint_steps"):
            _check_at_least(self, f"train.{name}", getattr(self.train, name), 1)
        for name in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm", "seed"):
            _check_at_least(self, f"train.{name}", getattr(self.train, name), 0)


def to_json(config: RunConfig) -> str:
    """Indented JSON of every setting."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> RunConfig:
    """Inverse of :func:`to_json`.

    Raises:
        ConfigError: malformed, or a setting is unknown.
    """
    try:
        return typing.cast(RunConfig, _build(RunConfig, json.loads(text), prefix=""))
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a run configuration: {error}") from error


def override(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """Apply ``path=value`` assignments.

    >>> config = override(RunConfig(recipe="r"), ["train.epochs=3", "model.head=[64,32]", "tables.dims.movie_id=32"])
    >>> config.train.epochs, config.model.head, config.tables.dims["movie_id"]
    (3, (64, 32), 32)

    Raises:
        ConfigError: no such setting (names the nearest), or a value of the wrong type.
    """
    values = dataclasses.asdict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"override {assignment!r}: expected path=value, for example train.epochs=3")
        _assign(values, path, text)
    return typing.cast(RunConfig, _build(RunConfig, values, prefix=""))


def setting_paths() -> dict[str, Any]:
    """Every setting an override may name, with its default."""
    return _flatten(dataclasses.asdict(RunConfig(recipe="")), "")


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        elif prefix:
            flat[prefix + name] = value
    return flat


def _assign(values: dict[str, Any], path: str, text: str) -> None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if path.startswith("tables.dims."):
        values["tables"]["dims"] = {**values["tables"]["dims"], path.removeprefix("tables.dims."): value}
        return
    paths = setting_paths()
    if path not in paths:
        raise ConfigError(f"unknown setting {path!r}: {nearest(path, paths)}")
    *sections, name = path.split(".")
    for section in sections:
        values = values[section]
    values[name] = value


def _build(kind: Any, values: Mapping[str, Any], *, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {prefix + name!r}: {nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _build(hints[name], value, prefix=f"{prefix}{name}.")
        else:
            arguments[name] = _convert(prefix + name, value, hints[name])
    return kind(**arguments)


def _convert(path: str, value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{path} is {value!r}: {nearest(str(value), arguments)}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        repeated = arguments[-1] is Ellipsis
        if not repeated and len(value) != len(arguments):
            raise ConfigError(f"{path} is {value!r}; allowed: {len(arguments)} values")
        kinds = [arguments[0]] * len(value) if repeated else arguments
        return tuple(_convert(path, v, k) for v, k in zip(value, kinds, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {str(k): _convert(f"{path}.{k}", v, arguments[1]) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    expected = getattr(kind, "__name__", None) or str(kind)
    raise ConfigError(f"{path} is {value!r}; expected {expected}")


def _check_at_least(config: RunConfig, path: str, value: float, least: int) -> None:
    if not value >= least:  # NaN is refused too
        raise ConfigError(f"recipe {config.recipe!r}: {path} is {value}; allowed: {least} or more")
