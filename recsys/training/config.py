"""One run that trains a ranking model as one frozen value (:mod:`recsys.training.settings` reads and changes it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from recsys.data.sources.raw_log import DATASETS
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.errors import ConfigError, nearest
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.network import RankingConfig
from recsys.models.registry import RANKING_MODELS
from recsys.training.settings import KindOf, NameIn, check_bounds, check_value, check_width

MapName = Annotated[str, NameIn(ROW_MAPS)]
ShardingName = Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise"]
ScheduleName = Literal["constant", "cosine", "linear", "step", "plateau"]
MonitorName = Literal["auc", "gauc", "log_loss"]
PipelineName = Literal["plain", "sparse_dist"]
AmpName = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data of a run.

    Attributes:
        dataset: one of ``DATASETS``, or a folder that ``recsys prepare`` wrote, with a ``/`` in its name.
        recent: newest events of the history that a sample reads; 0: as many as the FeatureSet declares.
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
    """Row maps: ids to rows of the tables (``embeddings/row_maps/row_map.py``).

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
            may be given a cluster. A vocabulary is larger by as much: 0.1 is a tenth more memory.
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
    spare_rows: float = 0.1
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

    described: ClassVar[str] = "a run configuration"

    recipe: str
    data: DataConfig = field(default_factory=DataConfig)
    model: Annotated[RankingConfig, KindOf(RANKING_MODELS)] = field(default_factory=DinConfig)
    tables: TableConfig = field(default_factory=TableConfig)
    rows: RowConfig = field(default_factory=RowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.dataset not in DATASETS and "/" not in self.data.dataset:
            raise ConfigError(
                f"data.dataset is {self.data.dataset!r}: {nearest(self.data.dataset, DATASETS)}; "
                f"or the folder of a prepared log, such as ./{self.data.dataset}"
            )
        for units in (*getattr(self.model, "attention", ()), *getattr(self.model, "head", ())):
            check_value(self, "hidden units of the model", units, least=1)
        check_bounds(self, LEAST)
        if (dropout := getattr(self.model, "dropout", 0.0)) >= 1:
            raise ConfigError(f"recipe {self.recipe!r}: model.dropout is {dropout}; allowed: below 1")
        for path, dim in {"dim": self.tables.dim, **{f"dims.{t}": d for t, d in self.tables.dims.items()}}.items():
            check_width(self, f"tables.{path}", dim)
        for width in self.rows.widths:
            check_width(self, "rows.widths", width)
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
        if self.train.decay > 1:
            raise ConfigError(f"recipe {self.recipe!r}: train.decay is {self.train.decay}; allowed: 0 to 1")


LEAST: dict[str, float] = {
    **dict.fromkeys(("data.recent", "model.dropout"), 0),
    **dict.fromkeys(("rows.min_count", "rows.chunks", "rows.rows", "rows.chunks_of"), 1),
    **dict.fromkeys(("rows.budget", "rows.unknown_rows", "rows.spare_rows", "rows.exact_below"), 0),
    **dict.fromkeys(("rows.resolution", "rows.seed", "rows.frequent"), 0),
    **dict.fromkeys(("tables.learning_rate", "tables.regularization"), 0),
    **dict.fromkeys(("train.batch_size", "train.epochs", "train.checkpoint_steps", "train.decay_epochs"), 1),
    **dict.fromkeys(("train.learning_rate", "train.warmup_steps", "train.weight_decay", "train.clip_norm"), 0),
    **dict.fromkeys(("train.seed", "train.evaluate_every", "train.patience", "train.min_delta", "train.decay"), 0),
}
"""The smallest value of each setting that has one."""
