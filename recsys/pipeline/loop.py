"""A day from its events to what is served, top to bottom."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from recsys.errors import ConfigError, DataFileError, InvalidInputError, RecsysError
from recsys.features.feature_set import FeatureSet
from recsys.files import make_folder, read_text
from recsys.pipeline.days import Day, iso
from recsys.pipeline.plan import (
    Base,
    Plan,
    RetrievalPlan,
    base_of,
    base_values,
    note_of,
    plan_of,
    refuse_older,
    retrieval_plan_of,
    served_now,
    steps_after,
)
from recsys.pipeline.report import write_report
from recsys.pipeline.settings import PipelineSettings
from recsys.pipeline.stages import (
    DayRun,
    bundle_step,
    gate_step,
    look_step,
    nothing_new,
    requests_step,
    samples_step,
    train_step,
    with_retrieval,
)
from recsys.pipeline.state import DayState, Status, StepRecord, all_states, read_state, state_file
from recsys.pipeline.steps import FileDigests, Refused, Steps, StopHere, prune_outputs
from recsys.releases.lock import hold, now, who
from recsys.releases.release import RANKING, release_name

LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a run of a day.

    Attributes:
        state: its file's content.
        taken: steps that this run took.
        would: in a dry run, the step that would be taken first; empty: none.
        after: the steps behind it.
    """

    state: DayState
    taken: tuple[str, ...] = ()
    would: str = ""
    after: tuple[str, ...] = ()


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
            return Outcome(
                state=state, would=str(stopped), after=steps_after(str(stopped), settings, Base(**state.base))
            )
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


def _begin(
    settings: PipelineSettings, day: Day, steps: Steps, *, full: bool, redis_url: str, new_store: bool
) -> DayRun:
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
    return DayRun(
        settings=settings,
        features=features,
        day=day,
        folder=steps.folder,
        store=store,
        steps=steps,
        digests=FileDigests(steps.folder / "digests.json"),
        others=others,
        full=full,
        redis_url=redis_url,
        served=served,
    )


def _take_steps(loop: DayRun) -> None:
    settings, day, steps, state = loop.settings, loop.day, loop.steps, loop.steps.state
    base = Base(**state.base)
    full = loop.full or bool(state.steps.get("train") and state.steps["train"].inputs.get("full"))
    plan = plan_of(settings, loop.features, base, day, folder=loop.folder.absolute(), full=full)
    steps.say(f"plan: {plan.mode}, {plan.why}")
    found = None
    if settings.retrieval.recipe:
        found = retrieval_plan_of(settings, loop.features, base, day, store=loop.store.absolute(), full=full)
        kept = f"the items of {found.of} are kept, if they fit" if found.keep else f"from scratch: {found.of}"
        steps.say(f"plan of retrieval: {kept}")
    samples = samples_step(loop)
    nothing = nothing_new(loop, samples, base)
    if nothing:
        _end(steps, "nothing", [nothing])
        return
    ratio = look_step(loop, samples, plan, base)
    train = train_step(loop, samples, plan, base, full=full)
    bundle = bundle_step(loop, samples, train)
    release_step = with_retrieval(loop, samples, bundle, found)
    release = release_name(settings.name, bundle.facts["ranking"], release_step.facts.get("retrieval", ""))
    if _is_settled(loop, release):
        return
    refuse_older(settings, loop.served, loop.others, day)
    requests = requests_step(loop, samples, base)
    gate = gate_step(loop, samples, release_step, ratio, requests)
    for note in gate.facts["notes"][len(loop.notes) :]:
        steps.say(f"note: {note}")
    if gate.facts["refusals"]:
        raise Refused(list(gate.facts["refusals"]))
    _publish(loop, plan, found, train, bundle, release_step, gate, release)


def _is_settled(loop: DayRun, release: str) -> bool:
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


def _publish(
    loop: DayRun,
    plan: Plan,
    retrieval: RetrievalPlan | None,
    train: StepRecord,
    bundle: StepRecord,
    bundles: StepRecord,
    gate: StepRecord,
    release: str,
) -> None:
    from recsys.errors import ReleaseError
    from recsys.pipeline.publish import precompute, promote, push_bundles
    from recsys.releases.release import open_release

    settings, steps, state, store = loop.settings, loop.steps, loop.steps.state, loop.store
    place = steps.path(bundles)
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
    if retrieval is not None:
        of_all = state.steps["retrieval"].facts["mode"] == "full"
        until_ms = loop.day.until_ms if of_all else Base(**state.base).retrieval_full_until_ms
        base |= {"retrieval": retrieval.model, "retrieval_full_until_ms": until_ms}
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
