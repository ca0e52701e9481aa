"""One run that trains a model to rank all items as one frozen value (:mod:`recsys.training.settings` reads it)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

from recsys.data.interactions.datasets import INTERACTION_SETS
from recsys.data.interactions.positives import PairRule
from recsys.embeddings import WIDTH_UNIT
from recsys.errors import ConfigError, nearest
from recsys.models.registry import CLOSED_FORMS, RETRIEVAL_MODELS
from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.models.retrieval.losses import Loss
from recsys.models.retrieval.network import RetrievalConfig
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.training.config import LEAST as LEAST_OF_RANKING
from recsys.training.config import RowConfig
from recsys.training.settings import KindOf, check_bounds, check_width


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig(PairRule):
    """Data of a run: a rule for pairs, and of what.

    Attributes:
        dataset: one of ``INTERACTION_SETS``, or with a ``/`` in it a folder that ``recsys prepare`` wrote, or one of
            train.txt and test.txt.
        validation_share, since, action, action_weights: see :class:`recsys.data.interactions.positives.PairRule`.
        mask_validation: whether validation pairs count as taken in the test, as training pairs do.
    """

    dataset: str = "gowalla"
    mask_validation: bool = True


@dataclass(frozen=True, kw_only=True)
class RetrievalTrainConfig:
    """The loop: Adam on a loss of pairs beside items that their users did not take.

    Attributes:
        epochs: passes over the training pairs.
        batch_size: pairs per step, at most; an epoch's steps have equally many. 0: all pairs in one step.
        learning_rate: of Adam.
        loss: ``bpr``; or ``softmax`` or ``cosine_contrastive`` (``recsys/models/retrieval/losses.py``), by cosines: the
            final vectors have length 1.
        negatives: of BPR: uniform draws per pair; the one that its user scores highest is the negative
            (:func:`recsys.models.retrieval.mf.hardest_negatives`). 1: as the papers of BPR, NGCF and LightGCN have it.
        sampled_items: of the other losses: items that the users of a batch are compared with; all, if there are fewer.
        temperature: of ``softmax``: cosines are divided by it.
        margin, negative_weight: of ``cosine_contrastive``: cosine up to which a negative costs nothing, and weight of
            all negatives of a pair.
        schedule: of the rate: ``constant``, ``cosine`` to zero at the end of the last epoch, or ``step``, which
            multiplies with ``decay`` every ``decay_epochs`` epochs.
        decay, decay_epochs: see ``schedule``.
        regularization: L2, half the mean over a batch's pairs of the squared vectors of user, item and negative.
        validate_every: epochs between validations.
        patience: stop after so many validations in a row without a better recall, and keep the best weights instead
            of the last; 0: train all epochs and keep the last. Needs a validation part.
        validation_users: whose items are ranked in validation, a fixed sample for all seeds; 0 for all.
        list_length: k of the metrics.
        fan_outs: neighbours per node that a batch samples, from the last layer to the first; the vectors are then
            TorchRec tables. Empty: every step propagates the whole graph.
        checkpoint_epochs: epochs between checkpoints.
        warm_start: folder of an older run whose vectors, by id, and layers this one begins with; empty: none.
        freeze_items: a bundle, or a run's folder with one in it, whose items this run keeps, so that it trains users
            alone (``training/retrieval/frozen/``); empty: items are trained, too.
        seed: of first vectors, order of pairs, negatives, dropout and neighbours.
    """

    epochs: int = 100
    batch_size: int = 100_000
    learning_rate: float = 0.02
    loss: Loss = "bpr"
    negatives: int = 1
    sampled_items: int = 1024
    temperature: float = 0.1
    margin: float = 0.4
    negative_weight: float = 10.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    decay: float = 0.1
    decay_epochs: int = 50
    regularization: float = 1e-4
    validate_every: int = 10
    patience: int = 5
    validation_users: int = 10_000
    list_length: int = 20
    fan_outs: tuple[int, ...] = ()
    checkpoint_epochs: int = 10
    warm_start: str = ""
    freeze_items: str = ""
    seed: int = 2026


@dataclass(frozen=True, kw_only=True)
class RetrievalRunConfig:
    """A recipe's result: everything a run depends on.

    Attributes:
        rows: ids to rows of the embedding tables. ``mf``, ``lightgcn`` and ``ngcf`` read ``ROWS_OF_PAIRS`` alone, and
            by ``vocabulary`` have a row for each user and item of the log, whatever its count.
    """

    described: ClassVar[str] = "the configuration of a retrieval run"

    recipe: str
    task: Literal["retrieval"] = "retrieval"
    data: InteractionsConfig = field(default_factory=InteractionsConfig)
    model: Annotated[RetrievalConfig, KindOf(RETRIEVAL_MODELS)] = field(default_factory=LightGcnConfig)
    train: RetrievalTrainConfig = field(default_factory=RetrievalTrainConfig)
    rows: RowConfig = field(default_factory=RowConfig)

    def __post_init__(self) -> None:
        model, train = self.model, self.train
        if self.data.dataset not in INTERACTION_SETS and "/" not in self.data.dataset:
            raise ConfigError(
                f"data.dataset is {self.data.dataset!r}: {nearest(self.data.dataset, INTERACTION_SETS)}; "
                f"or a folder, such as ./{self.data.dataset}"
            )
        check_bounds(self, LEAST, below=BELOW)
        if model.kind in CLOSED_FORMS:
            self._check_train(_OF_CLOSED_FORMS, "is a closed form, which takes no steps")
            self._check_rows((), "is a closed form, which has no tables")
            return
        check_width(self, "model.dim", model.dim)
        if isinstance(model, TwoTowerConfig):
            self._check_sequences(model)
            return
        self._check_rows(ROWS_OF_PAIRS, "has vectors of users and of items alone, and admits no id after training")
        if model.dim % (self.rows.chunks * WIDTH_UNIT):
            raise ConfigError(
                f"recipe {self.recipe!r}: model.dim is {model.dim} in rows.chunks {self.rows.chunks}; allowed: chunks "
                f"of a width that is a multiple of {WIDTH_UNIT}"
            )
        if train.fan_outs and len(train.fan_outs) != model.layers:
            raise ConfigError(
                f"recipe {self.recipe!r}: train.fan_outs has {len(train.fan_outs)} values for {model.layers} layers; "
                "allowed: one per layer, or none"
            )
        if train.freeze_items:
            self._check_frozen()
        self._check_given_vectors()

    def _check_given_vectors(self) -> None:
        """Refuse vectors to begin with where rows are sure to be multiplied: none are nearest to a vector."""
        rows = self.rows
        maps = [*rows.maps.values(), *([rows.map] if len(rows.maps) < 2 else [])]  # of two tables
        if "quotient_remainder" not in maps or rows.exact_below:
            return
        start = getattr(self.model, "start", "random")
        given = {"train.warm_start": self.train.warm_start, "model.start": "" if start == "random" else start}
        for name, value in given.items():
            if value:
                raise ConfigError(
                    f"recipe {self.recipe!r}: {name} is {value!r} beside rows.map 'quotient_remainder', which "
                    "multiplies the rows of an id: none are nearest to vectors that are given; "
                    f"allowed: another rows.map, or no {name}"
                )

    def _check_frozen(self) -> None:
        for name, why in (
            ("warm_start", "users begin with the vectors that they have in that bundle"),
            ("fan_outs", "nothing is propagated"),
        ):
            if value := getattr(self.train, name):
                raise ConfigError(
                    f"recipe {self.recipe!r}: train.{name} is {value!r} beside train.freeze_items; leave it out: {why}"
                )
        if (start := getattr(self.model, "start", "random")) != "random":
            raise ConfigError(
                f"recipe {self.recipe!r}: model.start is {start!r} beside train.freeze_items; "
                "leave it out: users begin with the sums of their items"
            )
        if self.rows.map != "vocabulary" or self.rows.maps:
            raise ConfigError(
                f"recipe {self.recipe!r}: rows.map is {self.rows.map!r} beside train.freeze_items; allowed: "
                "'vocabulary' and no rows.maps: users are fitted one by one"
            )

    def _check_rows(self, allowed: tuple[str, ...], why: str) -> None:
        """Refuse settings of rows that the model does not read."""
        plain = RowConfig()
        for name in (each.name for each in fields(self.rows) if each.name not in allowed):
            if (value := getattr(self.rows, name)) != getattr(plain, name):
                others = ", ".join(f"rows.{each}" for each in allowed) or "no rows.*"
                raise ConfigError(
                    f"recipe {self.recipe!r}: rows.{name} is {value!r}, but {self.model.kind} {why}; allowed: {others}"
                )

    def _check_sequences(self, model: TwoTowerConfig) -> None:
        if self.train.freeze_items:
            raise ConfigError(
                f"recipe {self.recipe!r}: train.freeze_items is {self.train.freeze_items!r}, but {model.kind} has no "
                "vectors of users to refit: a user is known by the history, and a new one at once; leave it out, or go "
                "on from an older run with train.warm_start"
            )
        self._check_train(_OF_SEQUENCES, "learns from histories by softmax")
        check_width(self, "model.attribute_dim", model.attribute_dim)
        for name, value in (("train.loss", self.train.loss), ("train.batch_size", self.train.batch_size)):
            if value in ("bpr", "cosine_contrastive", 0):
                allowed = "softmax" if name == "train.loss" else "1 or more"
                raise ConfigError(f"recipe {self.recipe!r}: {name} is {value!r}; allowed of {model.kind}: {allowed}")

    def _check_train(self, allowed: tuple[str, ...], why: str) -> None:
        """Refuse settings of training that the model does not read."""
        plain = RetrievalTrainConfig()
        for name in (each.name for each in fields(self.train) if each.name not in allowed):
            if name == "patience" and not self.train.patience:
                continue  # asks for no early stopping, and there is none
            if (value := getattr(self.train, name)) != getattr(plain, name):
                raise ConfigError(
                    f"recipe {self.recipe!r}: train.{name} is {value!r}, but {self.model.kind} {why}; "
                    f"allowed: {', '.join(f'train.{each}' for each in allowed)}"
                )


_OF_CLOSED_FORMS = ("list_length", "validation_users", "seed")
"""Settings of ``train`` that mean something without steps."""

_OF_SEQUENCES = (
    *("epochs", "batch_size", "learning_rate", "loss", "sampled_items", "temperature", "schedule", "decay"),
    *("decay_epochs", "validate_every", "patience", "validation_users", "list_length", "checkpoint_epochs"),
    *("warm_start", "seed"),
)
"""Settings of ``train`` that a model of histories reads."""

ROWS_OF_PAIRS = ("map", "maps", "budget", "rows", "exact_below", "frequent", "chunks", "resolution", "seed")
"""Settings of ``rows`` that a model of vectors of users and items reads."""

LEAST: dict[str, float] = {
    **{path: least for path, least in LEAST_OF_RANKING.items() if path.startswith("rows.")},
    "data.validation_share": 0,
    "data.action_weights": 0,
    "model.dim": WIDTH_UNIT,
    "model.layers": 1,
    "model.ranks": 1,
    **dict.fromkeys(("model.attribute_dim", "model.heads", "model.window", "model.interests"), 1),
    **dict.fromkeys(("model.dropout", "model.id_dropout", "model.hard_negatives", "model.long_history"), 0),
    "model.multi_task_weight": 0,
    **dict.fromkeys(
        (
            "model.user_degrees",
            "model.degrees",
            "model.low_pass",
            "model.sharpen",
            "model.neighbours",
            "model.memory_gib",
        ),
        0,
    ),
    **dict.fromkeys(("model.half_life_events", "model.half_life_days"), 0),
    **dict.fromkeys(("model.init_std", "model.message_dropout", "model.node_dropout", "model.slope"), 0),
    **dict.fromkeys(("train.fan_outs", "train.epochs", "train.negatives", "train.validate_every"), 1),
    **dict.fromkeys(("train.list_length", "train.checkpoint_epochs", "train.decay_epochs"), 1),
    **dict.fromkeys(("train.batch_size", "train.learning_rate", "train.decay", "train.regularization"), 0),
    "train.sampled_items": 1,
    "train.negative_weight": 0,
    "train.temperature": 0.001,
    "train.margin": -1,
    **dict.fromkeys(("train.patience", "train.validation_users", "train.seed"), 0),
}
"""The smallest value of each setting that has one."""

BELOW: dict[str, float] = dict.fromkeys(
    (
        *("data.validation_share", "model.message_dropout", "model.node_dropout", "model.slope"),
        *("model.dropout", "model.id_dropout"),
    ),
    1,
)
"""Settings that have a largest one too."""
