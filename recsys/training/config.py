"""One training run as one frozen value, and dotted overrides of it (``train.epochs=2``)."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.data.sources.raw_log import DATASETS
from recsys.embeddings import WIDTH_UNIT
from recsys.errors import ConfigError, nearest
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.sdim import SdimConfig

MODELS: dict[str, type[DinConfig] | type[DcnConfig] | type[SdimConfig] | type[AutoIntConfig]] = {
    "autoint": AutoIntConfig,
    "din": DinConfig,
    "dcn": DcnConfig,
    "sdim": SdimConfig,
}
"""Models by the name that ``model.kind`` takes."""

MapName = Literal[
    "vocabulary",
    "hash",
    "double_hash",
    "frequency",
    "double_frequency",
    "quotient_remainder",
    "lsh",
    "unified",
    "graph",
    "double_graph",
]


ShardingName = Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise"]
ScheduleName = Literal["constant", "cosine", "linear", "step", "plateau"]
MonitorName = Literal["auc", "gauc", "log_loss"]
PipelineName = Literal["plain", "sparse_dist"]
AmpName = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        dataset: one of ``DATASETS``, or a folder that ``recsys prepare`` wrote, with a ``/`` in its name.
        recent: newest events of the history that a sample reads.
        since: train only on samples from then on: a time, or a duration before the newest (``incremental.py``).
    """

    dataset: str = "movielens_1m"
    recent: int = 50
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Embedding tables.

    Attributes:
        dim: width of a table that ``dims`` does not name; a multiple of 4.
        dims: width by table name.
        optimizer: fused sparse optimiser: ``rowwise_adagrad``, ``adagrad``, ``sgd``, or ``adam`` of the rows looked up.
        learning_rate: of the fused optimiser.
        regularization: DIN's mini-batch-aware L2, lambda (KDD 2018, section 5.1): an id in the
            batch is pulled to zero with strength lambda / (its count in training).
        sharding: how several processes hold a table that ``shardings`` does not name (``embeddings/sharding``).
        shardings: the same by table name.
        uvm_cache: on GPU, the share of each table's rows that GPU memory caches, the tables being in host memory;
            0: tables are in GPU memory.
    """

    dim: int = 16
    dims: Mapping[str, int] = field(default_factory=dict)
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    learning_rate: float = 0.02
    regularization: float = 0.0
    sharding: ShardingName = "auto"
    shardings: Mapping[str, ShardingName] = field(default_factory=dict)
    uvm_cache: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """How ids become rows of the tables (``embeddings/row_maps/row_map.py``).

    Attributes:
        map: the method for every table that ``maps`` does not name.
        maps: method by table name.
        budget: rows of a table, as a share of its distinct ids in training; a vocabulary does not read it.
            Shared (``unified``) and clustered (``graph``) tables meet it in total.
        rows: number of rows by table name, instead of the budget.
        exact_below: tables with fewer distinct ids keep a vocabulary whatever ``map`` says.
        min_count: vocabulary: ids seen less often in training have no row of their own.
        unknown_rows: vocabulary: rows to which ids without one of their own hash; 0: they share row 0.
            Clusters: rows for ids in no cluster; 0: they hash to the clusters' rows.
        spare_rows: room for ids that are admitted after training, as a share of the ids: rows of a vocabulary, ids that
            may be given a cluster.
        frequent: ``frequency``: share of the rows that belong to the most frequent ids.
        chunks: ``unified``: lookups per id.
        chunks_of: the same by table name.
        widths: ``unified``: width of each shared table; default: one table, as wide as ``tables.dim`` / ``chunks``.
        graph_with: ``graph``, ``lsh``: table -> the table whose ids are the other side of its graph. Default: the
            item id's for features of the user and the context, the user id's for those of the item.
        resolution: ``graph``: of the clustering, instead of the budget; 0: search for the budget.
        seed: of hash functions and clustering.
    """

    map: MapName = "vocabulary"
    maps: Mapping[str, MapName] = field(default_factory=dict)
    budget: float = 1.0
    rows: Mapping[str, int] = field(default_factory=dict)
    exact_below: int = 0
    min_count: int = 2
    unknown_rows: int = 0
    spare_rows: float = 0.0
    frequent: float = 0.5
    chunks: int = 1
    chunks_of: Mapping[str, int] = field(default_factory=dict)
    widths: tuple[int, ...] = ()
    graph_with: Mapping[str, str] = field(default_factory=dict)
    resolution: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step and process.
        learning_rate: of Adam on everything but the tables.
        schedule: of this rate and the tables': ``cosine`` and ``linear`` fall to zero at the end of the last epoch,
            ``step`` multiplies with ``decay`` every ``decay_epochs`` epochs, ``plateau`` after every evaluation that
            was no improvement.
        decay, decay_epochs: see ``schedule``.
        warmup_steps: steps in which the rates rise linearly from zero.
        weight_decay: decoupled, on everything but the tables.
        clip_norm: largest gradient norm of everything but the tables; 0 for no limit.
        evaluate_every: steps between evaluations on the validation split; 0: one after every epoch.
        monitor: the metric of these evaluations that ``patience`` and ``plateau`` look at.
        patience: stop after so many evaluations in a row without an improvement, and keep the best weights instead of
            the last; 0: train all epochs and keep the last.
        min_delta: smaller gains are no improvement.
        amp: the network's arithmetic: ``none`` is float32; ``bf16`` and (GPU only) ``fp16`` are torch's autocast.
        compile: have torch.compile make kernels of the network.
        pipeline: ``plain``: one step after another; ``sparse_dist``: TorchRec's pipeline, for GPUs (``steps.py``).
        warm_start: a run's folder or a bundle to take rows and layers from; empty: begin anew.
        tensorboard: write curves to the run's folder.
        seed: of initial weights, sample order and dropout.
        checkpoint_steps: steps between checkpoints.
    """

    epochs: int = 2
    batch_size: int = 1024
    learning_rate: float = 1e-3
    schedule: ScheduleName = "cosine"
    decay: float = 0.1
    decay_epochs: int = 1
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    evaluate_every: int = 0
    monitor: MonitorName = "auc"
    patience: int = 0
    min_delta: float = 0.0
    amp: AmpName = "none"
    compile: bool = False
    pipeline: PipelineName = "plain"
    warm_start: str = ""
    tensorboard: bool = False
    seed: int = 2026
    checkpoint_steps: int = 500


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A recipe's result: everything a run depends on."""

    recipe: str
    data: DataConfig = field(default_factory=DataConfig)
    model: DinConfig | DcnConfig | SdimConfig | AutoIntConfig = field(default_factory=DinConfig)
    tables: TableConfig = field(default_factory=TableConfig)
    rows: RowConfig = field(default_factory=RowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.dataset not in DATASETS and "/" not in self.data.dataset:
            raise ConfigError(
                f"data.dataset is {self.data.dataset!r}: {nearest(self.data.dataset, DATASETS)}; "
                f"or the folder of a prepared log, such as ./{self.data.dataset}"
            )
        _check_at_least(self, "data.recent", self.data.recent, 1)
        attention = self.model.attention if isinstance(self.model, DinConfig | SdimConfig) else ()
        for units in (*attention, *self.model.head):
            _check_at_least(self, "hidden units of the model", units, 1)
        _check_at_least(self, "model.dropout", self.model.dropout, 0)
        if self.model.dropout >= 1:
            raise ConfigError(f"recipe {self.recipe!r}: model.dropout is {self.model.dropout}; allowed: below 1")
        for path, dim in {"dim": self.tables.dim, **{f"dims.{t}": d for t, d in self.tables.dims.items()}}.items():
            _check_width(self, f"tables.{path}", dim)
        for width in self.rows.widths:
            _check_width(self, "rows.widths", width)
        for path, least in (("min_count", 1), ("chunks", 1), ("budget", 0), ("unknown_rows", 0), ("spare_rows", 0)):
            _check_at_least(self, f"rows.{path}", getattr(self.rows, path), least)
        for path in ("exact_below", "resolution", "seed", "frequent"):
            _check_at_least(self, f"rows.{path}", getattr(self.rows, path), 0)
        for path in ("rows", "chunks_of"):
            for table, count in getattr(self.rows, path).items():
                _check_at_least(self, f"rows.{path}.{table}", count, 1)
        for name in ("learning_rate", "regularization"):
            _check_at_least(self, f"tables.{name}", getattr(self.tables, name), 0)
        if not 0 <= self.tables.uvm_cache < 1:
            raise ConfigError(
                f"recipe {self.recipe!r}: tables.uvm_cache is {self.tables.uvm_cache}; allowed: 0 to below 1"
            )
        shardings = {self.tables.sharding, *self.tables.shardings.values()}
        if "column_wise" in shardings and self.tables.optimizer == "rowwise_adagrad":
            raise ConfigError(
                f"recipe {self.recipe!r}: column_wise sharding with tables.optimizer rowwise_adagrad: its step size "
                "per row would become one per shard of it; choose adagrad, sgd or adam, or another sharding"
            )
        for name in ("batch_size", "epochs", "checkpoint_steps", "decay_epochs"):
            _check_at_least(self, f"train.{name}", getattr(self.train, name), 1)
        for name in (
            *("learning_rate", "warmup_steps", "weight_decay", "clip_norm", "seed"),
            *("evaluate_every", "patience", "min_delta", "decay"),
        ):
            _check_at_least(self, f"train.{name}", getattr(self.train, name), 0)
        if self.train.decay > 1:
            raise ConfigError(f"recipe {self.recipe!r}: train.decay is {self.train.decay}; allowed: 0 to 1")


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
    # Another kind of model begins with that kind's defaults, whatever the order of the assignments.
    for assignment in sorted(assignments, key=lambda a: not a.startswith("model.kind=")):
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"override {assignment!r}: expected path=value, for example train.epochs=3")
        _assign(values, path, text)
    return typing.cast(RunConfig, _build(RunConfig, values, prefix=""))


def setting_paths(model: str = "din") -> dict[str, Any]:
    """Every setting an override may name, with its default, for a kind of model."""
    return _flatten(dataclasses.asdict(RunConfig(recipe="", model=MODELS[model]())), "")


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
    if path == "model.kind":
        if value not in MODELS:
            raise ConfigError(f"model.kind is {value!r}: {nearest(str(value), MODELS)}")
        values["model"] = dataclasses.asdict(MODELS[value]())
        return
    paths = setting_paths(values["model"]["kind"])
    parent = path.rpartition(".")[0]
    by_table = isinstance(paths.get(parent), dict)
    if path not in paths and not by_table:
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
        if name == "model":
            kind_of_model = MODELS.get(value.get("kind", "din"))
            if kind_of_model is None:
                raise ConfigError(f"model.kind is {value['kind']!r}: {nearest(str(value['kind']), MODELS)}")
            arguments[name] = _build(kind_of_model, value, prefix=f"{prefix}{name}.")
        elif dataclasses.is_dataclass(hints[name]):
            arguments[name] = _build(hints[name], value, prefix=f"{prefix}{name}.")
        else:
            arguments[name] = convert_setting(prefix + name, value, hints[name])
    return kind(**arguments)


def convert_setting(path: str, value: Any, kind: Any) -> Any:
    """A value of JSON as one of the kind that a setting is annotated with.

    Raises:
        ConfigError: it is of another kind.
    """
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
        return tuple(convert_setting(path, v, k) for v, k in zip(value, kinds, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {str(k): convert_setting(f"{path}.{k}", v, arguments[1]) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    expected = getattr(kind, "__name__", None) or str(kind)
    raise ConfigError(f"{path} is {value!r}; expected {expected}")


def _check_width(config: RunConfig, path: str, width: int) -> None:
    if width < 1 or width % WIDTH_UNIT:
        raise ConfigError(f"recipe {config.recipe!r}: {path} is {width}; allowed: a multiple of {WIDTH_UNIT}")


def _check_at_least(config: RunConfig, path: str, value: float, least: int) -> None:
    if not least <= value < math.inf:  # NaN is refused too
        raise ConfigError(f"recipe {config.recipe!r}: {path} is {value}; allowed: {least} or more, finite")
