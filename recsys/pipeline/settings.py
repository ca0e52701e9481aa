"""The TOML file of a pipeline: every key is declared here, an unknown one is refused with the nearest.

Paths are relative to the file. No secret belongs in it: the Redis's URL comes from ``REDIS_URL`` or ``REDIS_URL_FILE``.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from zoneinfo import ZoneInfo

from recsys.errors import ConfigError, InvalidInputError, nearest
from recsys.features.values import TimeUnit
from recsys.files import read_text
from recsys.pipeline.days import duration_ms
from recsys.releases.comparison import Bounds, parse_bounds
from recsys.rows.contract import ReadOptions
from recsys.rows.label_rule import parse_label
from recsys.serving.settings import Settings
from recsys.training.settings import from_json

if TYPE_CHECKING:
    from recsys.training.config import RunConfig
    from recsys.training.retrieval.config import RetrievalRunConfig


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Section ``data``: the log, and how samples are made of it; as of `recsys prepare` (docs/guides/data.md).

    Attributes:
        log: event logs: files, folders or patterns.
        features: file of the FeatureSet.
        users, items: files with their features; empty: ids only.
        entities: files of other declared entities, by name.
        labels: files of labelled impressions, which become the samples.
        requests: request logs of servers: what they showed becomes the samples, and the events that followed are its
            labels.
        window: with requests: time in which an event makes a shown item positive.
        label: rule that labels a row, such as ``rating>=4``; empty: the column ``label``.
        negatives, negatives_by, negatives_seed: draw so many items for each positive.
        holdout: the newest samples, so long before the day's end, test the model and are not trained on until the next
            day.
        timestamp, time_unit, ignore, ignore_unknown, complete, unknown, future_tolerance_s: how rows are read.
        engine, memory_limit_gb, threads: what sorts them; 0 threads: all cores.
    """

    log: tuple[str, ...] = ()
    features: str = ""
    users: str = ""
    items: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    window: str = "30m"
    label: str = ""
    negatives: int = 0
    negatives_by: str = "uniform"
    negatives_seed: int = 0
    holdout: str = "6h"
    timestamp: str = ReadOptions.timestamp
    time_unit: TimeUnit = "ms"
    ignore: tuple[str, ...] = ()
    ignore_unknown: bool = False
    complete: bool = False
    unknown: Literal["keep", "reject"] = "keep"
    future_tolerance_s: int = ReadOptions.future_tolerance_s
    engine: Literal["duckdb", "spark"] = "duckdb"
    memory_limit_gb: float = 4.0
    threads: int = 0

    def read_options(self) -> ReadOptions:
        """Options that rows are read with."""
        return ReadOptions(
            timestamp=self.timestamp,
            unit=self.time_unit,
            ignored=self.ignore,
            ignore_unknown=self.ignore_unknown,
            complete=self.complete,
            future_tolerance_s=self.future_tolerance_s,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Section ``training``: the ranking model.

    Attributes:
        recipe: as of `recsys train`.
        overrides: ``path=value`` each, of every run.
        mode: ``incremental``: go on from the served release's model, where there is one to go on from; or ``full``.
        incremental: overrides of incremental runs, after the others.
        replay: an incremental run trains on so much before what is new, too.
        full_every: train from scratch when the last such run is so long ago; empty: never for that.
        window: a run from scratch trains on so much; empty: on the whole log.
        launcher: command before ``-m MODULE FILE`` that starts the training processes, on this machine or a cluster,
            such as ``torchrun --standalone --nproc-per-node=2``; they share the pipeline's folder. Empty: train in the
            pipeline's own process.
    """

    recipe: str = "din"
    overrides: tuple[str, ...] = ()
    mode: Literal["incremental", "full"] = "incremental"
    incremental: tuple[str, ...] = ("train.epochs=1", "train.warmup_steps=0")
    replay: str = "0d"
    full_every: str = "7d"
    window: str = ""
    launcher: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings:
    """Section ``retrieval``: the model that finds candidates, trained every day on the positive samples.

    Attributes:
        recipe: one of those that rank all items (`recsys recipes`); empty: none is trained, and a release takes the
            retrieval bundle of the served one along.
        overrides: ``path=value`` each.
        full_every: of ``mf``, ``lightgcn`` and ``ngcf``: train from scratch when the last such run is so long ago, and
            on the other days users alone, against the items of the served bundle, whose index stays; empty: never for
            that. Other models are trained from scratch every day.
        most_new_items: share of the new positives, up to which they may be of items that the index has not; above it
            the model is trained from scratch.
    """

    recipe: str = ""
    overrides: tuple[str, ...] = ()
    full_every: str = "7d"
    most_new_items: float = 0.01


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Section ``export``: as of `recsys export`.

    Attributes:
        quantize: storage of rows by table, ``*`` for the others.
        compute: arithmetic of the matrix products.
    """

    quantize: Mapping[str, str] = field(default_factory=dict)
    compute: Literal["float32", "int8"] = "float32"


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Section ``gate``: what a model must be to be promoted; as of `recsys release promote` (docs/guides/releases.md).

    Attributes:
        margins: by which a metric may be worse than the served release's, ``1%`` or ``auc=0.002``.
        smallest_segment, standard_errors: of segments.
        samples: fewest held-out samples that both are measured on, of whole users; 0: all.
        least_samples: fewest held-out samples, and fewest to train on.
        most_rows_ratio: new events over the mean of the days before; above it nothing is promoted. 0: it is only said.
        requests: request logs of live servers: refuse if what they saw in new requests differs from the log. Empty:
            nothing is compared.
    """

    margins: tuple[str, ...] = ()
    smallest_segment: int = Bounds.smallest_segment
    standard_errors: float = Bounds.standard_errors
    samples: int = 20_000
    least_samples: int = 100
    most_rows_ratio: float = 0.0
    requests: tuple[str, ...] = ()

    def bounds(self) -> Bounds:
        """Bounds of the comparison; raises InvalidInputError."""
        return parse_bounds(self.margins, smallest_segment=self.smallest_segment, standard_errors=self.standard_errors)


@dataclass(frozen=True, kw_only=True)
class StateSettings:
    """Section ``states``: states of long histories, where the served release's are of no use to the new one.

    Attributes:
        cold: promote without them.
        users_per_s: most users a second; 0: no bound.
        active_within: only users with an event in this time; empty: all.
        ttl_s: how long one is kept, as RECSYS_STATE_TTL_S of the server.
    """

    cold: bool = False
    users_per_s: float = 200.0
    active_within: str = "7d"
    ttl_s: int = Settings.state_ttl_s


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """Section ``release``: the store of releases.

    Attributes:
        store: its folder.
        promote: False: push alone; a person promotes.
    """

    store: str = "releases"
    promote: bool = True


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """The whole file.

    Attributes:
        name: of the model that requests ask for, and of the pipeline.
        folder: where days, outputs, the page and figures are kept.
        zone: time zone in which a day ends.
        keep_days: outputs of so many days are kept, besides what releases that are served were made of.
    """

    described: ClassVar[str] = "the settings of a pipeline"

    name: str = ""
    folder: str = "pipeline"
    zone: str = "UTC"
    keep_days: int = 7
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    states: StateSettings = field(default_factory=StateSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)

    @property
    def recipe(self) -> str:
        """Name of the ranking model's recipe."""
        return self.training.recipe


def read_settings(file: Path) -> PipelineSettings:
    """Read and check a file; its paths are relative to the working folder afterwards.

    Raises:
        ConfigError: it is no TOML, a key is unknown, a value is none that is allowed; begins with the file.
        OSError: it cannot be read.
    """
    try:
        values = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    try:
        settings = from_json(PipelineSettings, json.dumps(values, default=str))
        _check(settings)
        return _resolved(settings, file.parent)
    except InvalidInputError as error:
        raise ConfigError(f"{file}: {error}") from error


def run_config(settings: PipelineSettings, *, dataset: str, changes: tuple[str, ...] = ()) -> RunConfig:
    """The configuration of a run of the ranking model on a prepared log.

    Raises:
        ConfigError: no such recipe, setting or value.
    """
    from recsys.recipes import recipe
    from recsys.training.settings import override

    config = override(recipe(settings.training.recipe), [*settings.training.overrides, *changes])
    return replace(config, data=replace(config.data, dataset=dataset))


def retrieval_config(settings: PipelineSettings) -> RetrievalRunConfig:
    """The configuration of a run of the retrieval model.

    Raises:
        ConfigError: no such recipe, setting or value.
    """
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.training.settings import override

    name = settings.retrieval.recipe
    if name not in RETRIEVAL_RECIPES:
        raise ConfigError(f"retrieval.recipe is {name!r}: {nearest(name, RETRIEVAL_RECIPES)}")
    config = override(RETRIEVAL_RECIPES[name](), settings.retrieval.overrides)
    for path, value, why in (
        ("train.freeze_items", config.train.freeze_items, "retrieval.full_every says on which days items are kept"),
        ("train.warm_start", config.train.warm_start, "users begin with the served bundle's vectors where they can"),
    ):
        if value:
            raise ConfigError(f"retrieval: {path} is set by the pipeline; {why}")
    return replace(config, data=replace(config.data, dataset="./log"))


def _check(settings: PipelineSettings) -> None:
    for path, value in (
        ("name", settings.name), ("folder", settings.folder), ("data.log", settings.data.log),
        ("data.features", settings.data.features), ("release.store", settings.release.store),
    ):  # fmt: skip
        if not value:
            raise ConfigError(f"{path} is missing, and has no default")
    for path, least in _LEAST.items():
        section, _, name = path.rpartition(".")
        value = getattr(getattr(settings, section) if section else settings, name)
        if not least <= value < float("inf"):  # NaN is refused too
            raise ConfigError(f"{path} is {value}; allowed: {least} or more")
    try:
        ZoneInfo(settings.zone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"zone is {settings.zone!r}; allowed: a time zone such as Europe/Berlin, or UTC") from None
    training = settings.training
    for path, text in (
        ("data.holdout", settings.data.holdout), ("data.window", settings.data.window),
        ("training.replay", training.replay), ("training.full_every", training.full_every or "1d"),
        ("training.window", training.window or "1d"),
        ("retrieval.full_every", settings.retrieval.full_every or "1d"),
        ("states.active_within", settings.states.active_within or "1d"),
    ):  # fmt: skip
        if not duration_ms(path, text) and path in ("data.holdout", "data.window", "training.window"):
            raise ConfigError(f"{path} is {text!r}; allowed: above 0")
    data = settings.data
    if data.requests and duration_ms("data.window", data.window) >= duration_ms("data.holdout", data.holdout):
        raise ConfigError(
            f"data.window is {data.window!r}, and data.holdout {data.holdout!r}: what was taken of the lists that "
            "would test the model is not known at the day's end; allowed: a shorter window, or a longer holdout"
        )
    data.read_options()
    settings.gate.bounds()
    if settings.data.label:
        parse_label(settings.data.label)
    for changes in ((), training.incremental):
        config = run_config(settings, dataset="./log", changes=changes)
        for assignment in (*training.overrides, *changes):
            path = assignment.partition("=")[0]
            if path in _OURS:
                raise ConfigError(f"training: {path} is set by the pipeline; {_OURS[path]}")
    if settings.retrieval.recipe:
        retrieval_config(settings)
    if config.train.patience or config.train.schedule == "plateau":
        raise ConfigError(
            "training: train.patience and the schedule plateau look at a validation split, which a pipeline has none "
            "of: what is held out tests the model; allowed: a number of epochs (train.epochs)"
        )


_OURS = {
    "data.dataset": "it is the log of data.log",
    "data.since": "training.window and training.replay say what is trained on",
    "train.warm_start": "training.mode says what is gone on from",
}
_LEAST: Mapping[str, float] = {
    "keep_days": 1,
    "data.memory_limit_gb": 1.0,
    "data.threads": 0,
    "data.negatives": 0,
    "data.future_tolerance_s": 0,
    "gate.smallest_segment": 1,
    "gate.samples": 0,
    "gate.least_samples": 1,
    "gate.most_rows_ratio": 0,
    "retrieval.most_new_items": 0,
    "states.users_per_s": 0,
    "states.ttl_s": 60,
}


def _resolved(settings: PipelineSettings, base: Path) -> PipelineSettings:
    def path(text: str) -> str:
        return str(base / text) if text else ""

    data, release = settings.data, settings.release
    return replace(
        settings,
        folder=path(settings.folder),
        data=replace(
            data,
            log=tuple(map(path, data.log)),
            labels=tuple(map(path, data.labels)),
            requests=tuple(map(path, data.requests)),
            features=path(data.features),
            users=path(data.users),
            items=path(data.items),
            entities={name: path(file) for name, file in data.entities.items()},
        ),
        gate=replace(settings.gate, requests=tuple(map(path, settings.gate.requests))),
        release=replace(release, store=path(release.store)),
    )
