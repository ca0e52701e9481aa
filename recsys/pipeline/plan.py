"""The release that a day's model goes on from, decided once a day; and if it goes on, or begins from scratch.

It is the one that is served, not the last that was trained: after a rollback, or a day whose model was refused, the
next day goes on from what answers, and nothing that was not trained on is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.bundle import read_manifest
from recsys.errors import BundleError, ConfigError, ReleaseError
from recsys.features.feature_set import FeatureSet
from recsys.pipeline.days import Day, duration_ms, iso
from recsys.pipeline.settings import PipelineSettings, retrieval_config, run_config
from recsys.pipeline.state import DayState
from recsys.pipeline.steps import digest
from recsys.releases.release import RANKING, RETRIEVAL, open_release
from recsys.releases.served import Served, read_served

if TYPE_CHECKING:
    from recsys.training.retrieval.config import RetrievalRunConfig

ORDER = (
    "samples", "look", "train", "bundle", "retrieval", "retrieval bundle", "release", "measure", "served",
    "retrieval measure", "retrieval served", "requests", "gate", "states", "push", "promote",
)  # fmt: skip
"""Names of the steps; those of a retrieval model, and of one that is taken along, only where there is one."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A served release that this pipeline made, or the reason why there is none.

    Attributes:
        served: name of the release that is served when the day begins, whoever made it; empty: there is none.
        release: its name, if it is one of this pipeline's; empty: there is none.
        why: reason, if there is none.
        day: that made it.
        run: folder of its run, relative to the pipeline's.
        run_key: of the step that trained it.
        until_ms: end of its day.
        trained_until_ms: samples from then on tested it.
        full_until_ms: end of the day whose run was from scratch, which it goes back to.
        model: hash of its model's settings and features.
        refused: newest day since then whose gate found a model worse, if it had gone on from this one; else empty.
        retrieval: hash of its retrieval model's settings and features; empty: it has none, or one that was taken along.
        retrieval_full_until_ms: end of the day whose run trained that model's items.
        retrieval_refused: newest day since then whose gate found a retrieval model worse that kept the index of this
            one; else empty.
    """

    served: str = ""
    release: str = ""
    why: str = ""
    day: str = ""
    run: str = ""
    run_key: str = ""
    until_ms: int = 0
    trained_until_ms: int = 0
    full_until_ms: int = 0
    model: str = ""
    refused: str = ""
    retrieval: str = ""
    retrieval_full_until_ms: int = 0
    retrieval_refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A day's training.

    Attributes:
        mode: ``full`` or ``incremental``.
        why: in words.
        since_ms: first moment that is trained on; None: all.
        test_from_ms: samples from then on are held out.
        changes: overrides of the run.
        full_until_ms: as of ``Base``.
        model: hash of the model's settings and features.
    """

    mode: str
    why: str
    since_ms: int | None
    test_from_ms: int
    changes: tuple[str, ...] = field(default=())
    full_until_ms: int
    model: str


@dataclass(frozen=True, kw_only=True)
class RetrievalPlan:
    """A day's training of the retrieval model, as far as it is known before the samples are.

    Attributes:
        keep: bundle whose items are kept, if they fit the log; None: train from scratch.
        version: of that bundle; empty: there is none.
        of: release and day that it is of, or the reason why nothing is kept; in words.
        since_ms: positives from then on are new to that bundle.
        model: hash of the model's settings and features.
    """

    keep: Path | None = None
    version: str = ""
    of: str
    since_ms: int = 0
    model: str


def served_now(store: Path, days: Sequence[DayState], *, new_store: bool) -> Served | None:
    """Read what is served; a store that is empty, after there were promotions, is none to promote to.

    Raises:
        ReleaseError: it cannot be read, or is empty though this pipeline has promoted to it.
    """
    served = read_served(store) if store.is_dir() else None
    promoted = [state for state in days if state.release]
    if served is None and promoted and not new_store:
        last = promoted[-1]
        raise ReleaseError(
            f"{store}: nothing is served there, but release {last.release} of {last.day} was promoted to it: is its "
            "volume mounted? --new-store begins anew"
        )
    return served


def base_of(
    settings: PipelineSettings, served: Served | None, days: Sequence[DayState], day: Day, *, store: Path
) -> Base:
    """The served release that a day goes on from.

    Raises:
        ReleaseError: this day's release is served already, and the day's file was lost.
    """
    live, of = _live(settings, served, days)
    if not live:
        return Base(why=f"nothing is served as {settings.name} yet")
    if of is None:
        note = _note(store, live)
        if note == note_of(settings, day):
            raise ReleaseError(
                f"{live} is served, which is this day's release, but what the day's file knew of it is lost; nothing "
                "was changed: the next day goes on"
            )
        return Base(served=live, why=f"{live} is served, of which no day of this pipeline knows the run")
    since = [state for state in days if of.until_ms < state.until_ms < day.until_ms]
    return Base(
        served=live,
        release=live,
        day=of.day,
        until_ms=of.until_ms,
        refused=_refused(since, RANKING, "train", "incremental"),
        retrieval_refused=_refused(since, RETRIEVAL, "retrieval", "users"),
        **of.steps["push"].facts["base"],
    )


def refuse_older(settings: PipelineSettings, served: Served | None, days: Sequence[DayState], day: Day) -> None:
    """Refuse a day before that of the served release; raises ConfigError."""
    live, of = _live(settings, served, days)
    if of is not None and of.until_ms > day.until_ms:
        raise ConfigError(
            f"{day.name}: {live} is served, a release of {of.day}, which knows newer events; allowed: later days"
        )


def note_of(settings: PipelineSettings, day: Day) -> str:
    """The note of a day's release."""
    return f"pipeline {settings.name}, {day.name}"


def plan_of(
    settings: PipelineSettings, features: FeatureSet, base: Base, day: Day, *, folder: Path, full: bool
) -> Plan:
    """Decide what is trained on, and from what; the same for the same base and settings.

    Args:
        settings: of the pipeline.
        features: of the log.
        base: see :func:`base_of`.
        day: the day.
        folder: of the pipeline.
        full: a run from scratch was asked for.
    """
    training = settings.training
    test_from_ms = day.until_ms - duration_ms("data.holdout", settings.data.holdout)
    model = model_digest(settings, features)
    why = _why_full(settings, base, day, model=model, folder=folder, full=full)
    if not why:
        since_ms = base.trained_until_ms - duration_ms("training.replay", training.replay)
        warm = f"train.warm_start={json.dumps(str(folder / base.run))}"
        return Plan(
            mode="incremental",
            why=f"it goes on from {base.release} of {base.day}, with samples from {iso(since_ms)} on",
            since_ms=since_ms,
            test_from_ms=test_from_ms,
            changes=(*training.incremental, warm, f"data.since={iso(since_ms)}"),
            full_until_ms=base.full_until_ms,
            model=model,
        )
    first_ms = day.until_ms - duration_ms("training.window", training.window) if training.window else None
    return Plan(
        mode="full",
        why=f"from scratch: {why}",
        since_ms=first_ms,
        test_from_ms=test_from_ms,
        changes=() if first_ms is None else (f"data.since={iso(first_ms)}",),
        full_until_ms=day.until_ms,
        model=model,
    )


def model_digest(settings: PipelineSettings, features: FeatureSet) -> str:
    """Hash of what a model can only go on with if it is the same: settings, features, what samples and labels are."""
    config, data = run_config(settings, dataset="./log"), settings.data
    negatives = {"negatives": data.negatives, "by": data.negatives_by} if data.negatives else {}
    parts = {"recipe": config.recipe, "recent": config.data.recent, "features": features.fingerprint()}
    parts |= {"samples": _labels(settings) | negatives}
    return digest({**parts, **{name: asdict(getattr(config, name)) for name in ("model", "tables", "rows")}})


def _labels(settings: PipelineSettings) -> dict[str, Any]:
    """Settings that say which samples are positive."""
    data = settings.data
    return {"label": data.label, "labels": bool(data.labels), "requests": bool(data.requests) and data.window}


def retrieval_plan_of(
    settings: PipelineSettings, features: FeatureSet, base: Base, day: Day, *, store: Path, full: bool
) -> RetrievalPlan:
    """Decide if the items of the served bundle may be kept; the same for the same base, settings and store.

    Args:
        settings: of a pipeline that trains a retrieval model.
        features: of the log.
        base: see :func:`base_of`.
        day: the day.
        store: of the releases.
        full: a run from scratch was asked for.
    """
    from recsys.training.settings import to_json

    config = retrieval_config(settings)
    parts = {"model": json.loads(to_json(config))["model"], "loss": config.train.loss}
    rule = {"action": config.data.action, "weights": dict(config.data.action_weights)}
    model = digest({**parts, "features": features.fingerprint(), "samples": {**_labels(settings), **rule}})
    why = _cannot_keep(config) or _why_all_items(settings, base, day, model=model, full=full)
    if why:
        return RetrievalPlan(of=why, model=model)
    try:
        bundle = open_release(store, base.release).retrieval
        if bundle is None:
            return RetrievalPlan(of=f"{base.release} has no retrieval bundle", model=model)
        version = read_manifest(bundle).version
    except (ReleaseError, BundleError) as error:
        return RetrievalPlan(of=f"the bundle of {base.release} cannot be read: {error}", model=model)
    return RetrievalPlan(
        keep=bundle,
        version=version,
        of=f"{base.release} of {base.day}",
        since_ms=base.trained_until_ms,
        model=model,
    )


def _cannot_keep(config: RetrievalRunConfig) -> str:
    """Reason for which a model never trains users alone; empty: it can."""
    from recsys.models.registry import RETRIEVAL_MODELS

    if RETRIEVAL_MODELS[config.model.kind].learns_from != "pairs":
        return f"{config.model.kind} knows users by their history, and has none to train alone"
    if config.rows.map != "vocabulary" or config.rows.maps:
        return "ids share rows (rows.map), and users are trained alone one by one"
    return ""


def _why_all_items(settings: PipelineSettings, base: Base, day: Day, *, model: str, full: bool) -> str:
    """Reason for training the retrieval model's items, too; empty: there is none."""
    every = settings.retrieval.full_every
    if full:
        return "asked for with --full"
    if not base.release:
        return base.why
    if not base.retrieval:
        return f"{base.release} has no retrieval model of this pipeline"
    if base.retrieval != model:
        return f"its settings, its features, or what is a positive, are others than those of {base.release}"
    if base.retrieval_refused:
        return f"the gate found the retrieval model of {base.retrieval_refused} worse, which kept these items"
    if every and day.until_ms - base.retrieval_full_until_ms >= duration_ms("retrieval.full_every", every):
        ended = iso(base.retrieval_full_until_ms)
        return f"items were trained last by the day that ended at {ended} (retrieval.full_every)"
    return ""


def base_values(plan: Plan, *, run: str, run_key: str) -> dict[str, Any]:
    """The fields of ``Base`` that a later day reads of this day's release, but for those of a retrieval model."""
    return {
        "run": run,
        "run_key": run_key,
        "trained_until_ms": plan.test_from_ms,
        "full_until_ms": plan.full_until_ms,
        "model": plan.model,
    }


def steps_after(step: str, settings: PipelineSettings, base: Base) -> tuple[str, ...]:
    """Steps that a day takes behind one, as far as settings and what is served tell before they are taken."""
    own = bool(settings.retrieval.recipe)
    there = {
        "retrieval": own, "retrieval bundle": own, "release": own, "retrieval measure": own,
        "served": bool(base.served), "retrieval served": own and bool(base.served),
        "requests": bool(settings.gate.requests) and bool(base.served), "states": False,
        "promote": settings.release.promote,
    }  # fmt: skip
    return tuple(name for name in ORDER[ORDER.index(step) + 1 :] if there.get(name, True))


def _why_full(settings: PipelineSettings, base: Base, day: Day, *, model: str, folder: Path, full: bool) -> str:
    """Reason for a run from scratch; empty: there is none."""
    if full:
        return "asked for with --full"
    if settings.training.mode == "full":
        return 'training.mode is "full"'
    if not base.release:
        return base.why
    if base.model != model:
        return f"the model's settings, its features, or what its samples are, are others than those of {base.release}"
    if base.refused:
        return f"the gate found the model of {base.refused} worse, which went on from that of {base.release}"
    every = settings.training.full_every
    if every and day.until_ms - base.full_until_ms >= duration_ms("training.full_every", every):
        return f"the last run from scratch was of the day that ended at {iso(base.full_until_ms)} (training.full_every)"
    if not (folder / base.run / "metrics.json").is_file():
        return f"the run of {base.release} is gone ({folder / base.run})"
    return ""


def _live(settings: PipelineSettings, served: Served | None, days: Sequence[DayState]) -> tuple[str, DayState | None]:
    """The served release, and the day that made it; empty and None where there are none."""
    if served is None or settings.name not in served.models:
        return "", None
    live = served.models[settings.name].live
    made = [state for state in days if (step := state.steps.get("push")) and step.facts.get("release") == live]
    return live, made[-1] if made else None


def _refused(days: Sequence[DayState], part: str, step: str, mode: str) -> str:
    """The last of some days whose model the gate found worse, if its training was of that mode; else empty.

    Args:
        days: the oldest first.
        part: of the release.
        step: that trained it.
        mode: of the training.
    """
    worse = [
        state
        for state in days
        if state.status == "refused"
        and (gate := state.steps.get("gate"))
        and step in state.steps
        and any(row["part"] == part and row["verdict"] == "worse" for row in gate.facts["rows"])
    ]
    return worse[-1].day if worse and worse[-1].steps[step].facts["mode"] == mode else ""


def _note(store: Path, release: str) -> str:
    try:
        return open_release(store, release).release.note
    except ReleaseError:
        return ""
