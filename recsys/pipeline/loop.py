"""A day from its events to what is served, top to bottom."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataFileError, InvalidInputError, RecsysError
from recsys.features.feature_set import FeatureSet
from recsys.files import make_folder, read_text
from recsys.pipeline.days import Day, iso
from recsys.pipeline.keys import FileDigests
from recsys.pipeline.plan import Base, Plan, base_of, base_values, note_of, plan_of, refuse_older, served_now
from recsys.pipeline.report import write_report
from recsys.pipeline.settings import PipelineSettings, run_config
from recsys.pipeline.state import DayState, Status, StepRecord, all_states, read_state, state_file
from recsys.pipeline.steps import Refused, Steps, StopHere, prune_outputs
from recsys.releases.lock import hold, now, who
from recsys.releases.release import RANKING, release_name
from recsys.releases.served import Served, read_served

ORDER = ("samples", "look", "train", "bundle", "measure", "served", "gate", "states", "push", "promote")
"""Names of the steps."""

LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a run of a day.

    Attributes:
        state: its file's content.
        taken: steps that this run took.
        would: in a dry run, the step that would be taken first; empty: none.
    """

    state: DayState
    taken: tuple[str, ...] = ()
    would: str = ""


@dataclass(kw_only=True)
class _Loop:
    settings: PipelineSettings
    features: FeatureSet
    day: Day
    folder: Path
    store: Path
    steps: Steps
    others: list[DayState]
    full: bool
    redis_url: str
    served: Served | None
    notes: list[str] = field(default_factory=list)

    def served_names(self) -> tuple[str, ...]:
        """Releases that are served now."""
        served = read_served(self.store) if self.store.is_dir() else None
        return () if served is None else served.releases()


def run_day(
    settings: PipelineSettings,
    day: Day,
    *,
    redis_url: str | None = None,
    full: bool = False,
    new_store: bool = False,
    dry: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Take the steps of a day that were not taken yet, and say how it ended in the day's file.

    Args:
        settings: of the pipeline.
        day: the day.
        redis_url: of the store whose states are precomputed; None: there is none.
        full: train from scratch.
        new_store: the store of releases may be empty, though there were promotions.
        dry: write nothing, and stop at the first step that would be taken.
        say: told in a line what is done, and why.

    Raises:
        ConfigError: another run of this pipeline is at it; a later day's release is served; a setting is wrong.
        RecsysError, OSError: a step failed; the day's file says so, too.
    """
    folder = Path(settings.folder)
    with _alone(folder, dry=dry):
        state = _state_of(folder, day, say, dry=dry)
        steps = Steps(folder=folder, state=state, say=say, dry=dry)
        try:
            loop = _begin(settings, day, steps, full=full, redis_url=redis_url or "", new_store=new_store)
            _take_steps(loop)
        except StopHere as stopped:
            return Outcome(state=state, would=str(stopped))
        except Refused as refused:
            _end(steps, "refused", refused.reasons)
        except BaseException as error:
            _failed(steps, error)
            raise
        finally:
            if not dry:
                _tell(settings, steps)
        if not dry:
            prune_outputs(steps.folder, keep_days=settings.keep_days, served=loop.served_names())
        return Outcome(state=state, taken=tuple(steps.taken))


def _tell(settings: PipelineSettings, steps: Steps) -> None:
    """Write the page, the JSON and the figures; a disk that is full has no room for them either."""
    try:
        write_report(steps.folder, settings.name, steps.state)
    except (RecsysError, OSError) as error:
        steps.say(f"the page cannot be written: {error}")


def _begin(settings: PipelineSettings, day: Day, steps: Steps, *, full: bool, redis_url: str, new_store: bool) -> _Loop:
    store, state, say = Path(settings.release.store), steps.state, steps.say
    days, damaged = all_states(steps.folder)
    others = [each for each in days if each.day != day.name]
    for line in damaged:
        say(f"{line}: that day is left out of the history")
    served = served_now(store, days, new_store=new_store)
    try:
        features = FeatureSet.from_json(read_text(Path(settings.data.features)))
    except InvalidInputError as error:
        raise DataFileError(f"{settings.data.features}: {error}") from error
    if not state.release:
        refuse_older(settings, served, others, day)
    if not state.base:
        state.base = asdict(base_of(settings, served, others, day, store=store))
        steps.save()
    return _Loop(
        settings=settings,
        features=features,
        day=day,
        folder=steps.folder,
        store=store,
        steps=steps,
        others=others,
        full=full,
        redis_url=redis_url,
        served=served,
    )


def _take_steps(loop: _Loop) -> None:
    settings, day, steps, state = loop.settings, loop.day, loop.steps, loop.steps.state
    base = Base(**state.base)
    samples = _samples(loop)
    nothing = _nothing_new(loop, samples, base)
    if nothing:
        _end(steps, "nothing", [nothing])
        return
    full = loop.full or bool(state.steps.get("train") and state.steps["train"].inputs.get("full"))
    plan = plan_of(settings, loop.features, base, day, folder=loop.folder.absolute(), full=full)
    steps.say(f"plan: {plan.mode}, {plan.why}")
    ratio = _look(loop, samples, plan, base)
    train = _train(loop, samples, plan, base, full=full)
    bundle = _bundle(loop, samples, train)
    release = release_name(settings.name, bundle.facts["ranking"], "")
    if _is_settled(loop, release):
        return
    refuse_older(settings, loop.served, loop.others, day)
    gate = _gate(loop, samples, bundle, ratio)
    if gate.facts["refusals"]:
        raise Refused(list(gate.facts["refusals"]))
    _publish(loop, plan, train, bundle, gate, release)


def _samples(loop: _Loop) -> StepRecord:
    from recsys.pipeline.samples import make_samples, samples_inputs

    settings, day, steps = loop.settings, loop.day, loop.steps
    digests = FileDigests(loop.folder / "digests.json")
    inputs = samples_inputs(settings, loop.features, day, digests)
    if not steps.dry:
        digests.save()
    rejects = loop.folder / f"{day.name}.rejected.jsonl"
    return steps.take(
        "samples", inputs, lambda folder: make_samples(settings, loop.features, day, folder, rejects=rejects)
    )


def _nothing_new(loop: _Loop, samples: StepRecord, base: Base) -> str:
    """Reason for which there is nothing to do; empty: there is something."""
    if not samples.facts["events"]:
        return f"there is no event before {iso(loop.day.until_ms)}"
    if base.release and samples.facts["newest_ms"] < base.until_ms:
        newest = iso(samples.facts["newest_ms"])
        return f"there is no new event: {base.release} of {base.day} knows all up to the newest, of {newest}"
    return ""


def _look(loop: _Loop, samples: StepRecord, plan: Plan, base: Base) -> float | None:
    """Refuse samples that nothing can be learnt from or measured on; new events over the mean of the days before."""
    from recsys.pipeline.gate import rows_note, rows_problem
    from recsys.pipeline.samples import label_problem, look_at, open_samples

    steps, least = loop.steps, loop.settings.gate.least_samples
    new_from_ms = base.until_ms or loop.day.until_ms - _DAY_MS
    moments: dict[str, Any] = {"since_ms": plan.since_ms, "new_from_ms": new_from_ms, "test_from_ms": plan.test_from_ms}
    found = steps.take(
        "look",
        {"data": samples.facts["data"], **moments},
        lambda _: look_at(open_samples(steps.path(samples), recent=None), **moments),
        output=False,
    ).facts
    before = [
        each.steps["look"].facts["new_events"]
        for each in loop.others
        if "look" in each.steps and each.base.get("release")
    ]
    ratio = found["new_events"] * len(before) / sum(before) if sum(before) else None
    loop.notes += [*samples.facts["notes"], *rows_note(found, ratio)]
    for note in loop.notes:
        steps.say(f"note: {note}")
    held_out = f"held-out samples, from {iso(plan.test_from_ms)} on"
    problems = [
        label_problem("samples to train on", found["train"], least=least),
        label_problem(held_out, found["test"], least=least),
        rows_problem(loop.settings, ratio),
    ]
    if reasons := [problem for problem in problems if problem]:
        raise Refused(reasons)
    return ratio


def _train(loop: _Loop, samples: StepRecord, plan: Plan, base: Base, *, full: bool) -> StepRecord:
    from recsys.training.settings import to_json

    steps, settings = loop.steps, loop.settings
    log = steps.path(samples).absolute() / "log"
    config = run_config(settings, dataset=str(log), changes=plan.changes)
    # Where the log and the run before lie is no matter, what is in them is
    placeless = replace(config, data=replace(config.data, dataset="./log"), train=replace(config.train, warm_start=""))
    inputs = {
        "run": to_json(placeless),
        "data": samples.facts["data"],
        "base": base.run_key if plan.mode == "incremental" else "",
        "full": full,
        "launcher": list(settings.training.launcher),
    }

    def make(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.train import train_run

        made = train_run(config, folder, launcher=settings.training.launcher, say=steps.say)
        return {**made, "mode": plan.mode, "why": plan.why}

    return steps.take("train", inputs, make, goes_on=True)


def _bundle(loop: _Loop, samples: StepRecord, train: StepRecord) -> StepRecord:
    steps, settings = loop.steps, loop.settings

    def make(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import export_run
        from recsys.pipeline.samples import open_samples
        from recsys.training.run.folder import read_config

        run_dir = steps.path(train) / "run"
        dataset = open_samples(steps.path(samples), recent=read_config(run_dir).data.recent)
        # Of the day's end: the same inputs are the same release, whenever it is made
        at = iso(loop.day.until_ms)
        return export_run(run_dir, dataset, folder, name=settings.name, settings=settings.export, created_at=at)

    inputs = {
        "train": train.key,
        "name": settings.name,
        "quantize": dict(settings.export.quantize),
        "compute": settings.export.compute,
    }
    return steps.take("bundle", inputs, make)


def _measure(loop: _Loop, name: str, samples: StepRecord, bundle: Path, version: str) -> StepRecord:
    steps, count = loop.steps, loop.settings.gate.samples

    def make(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import measure_in
        from recsys.pipeline.samples import open_samples

        return measure_in(folder, bundle, open_samples(steps.path(samples), recent=None), samples=count)

    inputs = {"data": samples.facts["data"], "version": version, "samples": count}
    return steps.take(name, inputs, make)


def _gate(loop: _Loop, samples: StepRecord, bundle: StepRecord, ratio: float | None) -> StepRecord:
    from recsys.bundle import read_manifest
    from recsys.errors import BundleError
    from recsys.pipeline.gate import candidate_of, judge, running_release

    settings, steps, served = loop.settings, loop.steps, loop.served
    place = steps.path(bundle)
    mine = _measure(loop, "measure", samples, place / RANKING, bundle.facts["ranking"])
    running, unread = running_release(loop.store, served, settings.name)
    theirs: StepRecord | None = None
    if running is not None and running.ranking is not None:
        try:
            version = read_manifest(running.ranking).version
            theirs = _measure(loop, "served", samples, running.ranking, version)
        except (BundleError, InvalidInputError) as error:
            unread = f"the served release cannot be measured on the held-out samples: {error}"
    inputs = {
        "measured": mine.key,
        "running measured": "" if theirs is None else theirs.key,
        "served": "" if served is None else f"{served.revision} {served.models.get(settings.name)}",
        "gate": repr(settings.gate),
        "states": {"cold": settings.states.cold, "redis": bool(loop.redis_url)},
        "unread": unread,
    }

    def make(_: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import read_measured

        pair = None
        if theirs is not None:
            pair = (read_measured(steps.path(mine)), read_measured(steps.path(theirs)))
        found = judge(settings, candidate_of(place), running, unread=unread, measured=pair, redis=bool(loop.redis_url))
        figures = {"candidate": mine.facts, "served": None if theirs is None else theirs.facts}
        return {**found, **figures, "rows_ratio": ratio, "notes": [*loop.notes, *found["notes"]]}

    return steps.take("gate", inputs, make, output=False)


def _is_settled(loop: _Loop, release: str) -> bool:
    """True if this day's release needs no promotion any more; the day ends then."""
    from recsys.pipeline.publish import settled

    state = loop.steps.state
    if not settled(state, loop.served, model=loop.settings.name, release=release):
        return False
    assert loop.served is not None
    live = loop.served.models[loop.settings.name].live
    loop.steps.say(
        f"{release} is live as {loop.settings.name}"
        if live == release
        else f"{release} was promoted, and {live} was made live since ({loop.served.why}): nothing to do"
    )
    state.intent = {}
    _end(loop.steps, "promoted", [])
    return True


def _publish(loop: _Loop, plan: Plan, train: StepRecord, bundle: StepRecord, gate: StepRecord, release: str) -> None:
    from recsys.errors import ReleaseError
    from recsys.pipeline.publish import precompute, promote, push_bundles
    from recsys.releases.release import open_release

    settings, steps, state, store = loop.settings, loop.steps, loop.steps.state, loop.store
    place = steps.path(bundle)
    if gate.facts["states"]:
        steps.take(
            "states",
            {"state": bundle.facts["state"], "states": repr(settings.states)},
            lambda _: precompute(place / RANKING, loop.redis_url, settings.states),
            output=False,
        )
    if "push" in state.steps:
        try:
            open_release(store, release)
        except ReleaseError:
            del state.steps["push"]  # pruned, or another store came in its place
    note = note_of(settings, loop.day)
    base = base_values(plan, run=f"{train.output}/run", run_key=train.key)
    steps.take(
        "push",
        {"release": release, "base": base},
        lambda _: {**push_bundles(place, store, note=note), "base": base},
        output=False,
    )
    if not settings.release.promote:
        _end(steps, "ready", [f"release.promote is false: `recsys release promote {release}` makes it live"])
        return
    if steps.dry:
        steps.say(f"promote: would run, {release}")
        raise StopHere("promote")
    steps.say(f"promote: {release}")
    promote(state, loop.served, store, model=settings.name, release=release, why=note, save=steps.save)
    steps.taken.append("promote")
    _end(steps, "promoted", [])


def _end(steps: Steps, status: Status, reasons: Sequence[str]) -> None:
    state = steps.state
    state.status, state.reasons, state.at = status, list(reasons), now()
    steps.save()


def _failed(steps: Steps, error: BaseException) -> None:
    """Say in the day's file that a step failed, if it can be written."""
    why = "it was interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
    try:
        _end(steps, "failed", [why])
    except (RecsysError, OSError):
        steps.say(f"the day's file cannot be written; it ends with: {why}")


def _state_of(folder: Path, day: Day, say: Callable[[str], None], *, dry: bool) -> DayState:
    """The day's file; one that is damaged is set aside, and its steps are found by their outputs."""
    file = state_file(folder, day.name)
    try:
        state = read_state(file)
    except DataFileError as error:
        aside = file.with_suffix(".json.damaged")
        say(f"{error}; it is set aside as {aside}, and steps are found by their outputs")
        if not dry:
            os.replace(file, aside)
        state = None
    if state is None:
        return DayState(day=day.name, until_ms=day.until_ms)
    if state.until_ms != day.until_ms:
        raise ConfigError(
            f"{file}: the day ended at {iso(state.until_ms)} when it was begun, and at {iso(day.until_ms)} now: the "
            "zone was changed; set it back, or move that file away"
        )
    return state


@contextmanager
def _alone(folder: Path, *, dry: bool) -> Iterator[None]:
    """Hold the pipeline's lock, which ends with the process.

    Raises:
        ConfigError: another run holds it; the message names it. Or the folder cannot be written.
    """
    if dry:
        yield
        return
    make_folder(folder)
    path = folder / LOCK
    descriptor = hold(path)
    if descriptor is None:
        holder = path.read_text(errors="replace").strip() or "another process"
        raise ConfigError(f"{folder}: this pipeline runs already ({holder}); nothing was done: wait until it ends")
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{who()}, process {os.getpid()}, since {now()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


_DAY_MS = 86_400_000
