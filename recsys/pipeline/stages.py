"""The steps of a day up to the verdict: samples, a look at them, models, bundles, figures, the gate.

What a step needs is imported when it is taken: torch takes seconds, and a day that ended needs none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.pipeline.days import Day, iso
from recsys.pipeline.plan import Base, Plan, RetrievalPlan
from recsys.pipeline.settings import PipelineSettings, run_config
from recsys.pipeline.state import DayState, StepRecord
from recsys.pipeline.steps import FileDigests, Refused, Steps
from recsys.releases.release import RANKING, RETRIEVAL
from recsys.releases.served import Served, read_served

_DAY_MS = 86_400_000


@dataclass(kw_only=True)
class DayRun:
    """A run of a day while its steps are taken; ``notes`` are added to, all else stays."""

    settings: PipelineSettings
    features: FeatureSet
    day: Day
    folder: Path
    store: Path
    steps: Steps
    digests: FileDigests
    others: list[DayState]
    full: bool
    redis_url: str
    served: Served | None
    notes: list[str] = field(default_factory=list)

    def served_names(self) -> tuple[str, ...]:
        """Releases that are served now."""
        served = read_served(self.store) if self.store.is_dir() else None
        return () if served is None else served.releases()


def samples_step(loop: DayRun) -> StepRecord:
    from recsys.pipeline.samples import make_samples, samples_inputs

    settings, day, steps = loop.settings, loop.day, loop.steps
    inputs = samples_inputs(settings, loop.features, day, loop.digests)
    if not steps.dry:
        loop.digests.save()
    rejects = loop.folder / f"{day.name}.rejected.jsonl"
    return steps.take(
        "samples", inputs, lambda folder: make_samples(settings, loop.features, day, folder, rejects=rejects)
    )


def nothing_new(loop: DayRun, samples: StepRecord, base: Base) -> str:
    """Reason for which there is nothing to do; empty: there is something."""
    if not samples.facts["events"]:
        return f"there is no event before {iso(loop.day.until_ms)}"
    if base.release and samples.facts["newest_ms"] < base.until_ms:
        newest = iso(samples.facts["newest_ms"])
        return f"there is no new event: {base.release} of {base.day} knows all up to the newest, of {newest}"
    return ""


def look_step(loop: DayRun, samples: StepRecord, plan: Plan, base: Base) -> float | None:
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
    earlier = [each for each in loop.others if each.until_ms < loop.day.until_ms and each.base.get("release")]
    before = [each.steps["look"].facts["new_events"] for each in earlier if "look" in each.steps]
    ratio = found["new_events"] * len(before) / sum(before) if sum(before) else None
    loop.notes += [*samples.facts["notes"], *rows_note(found, ratio)]
    for note in loop.notes:
        steps.say(f"note: {note}")
    newest_ms = samples.facts["newest_ms"]
    held_out = f"held-out samples, from {iso(plan.test_from_ms)} on"
    problems = [
        label_problem("samples to train on", found["train"], least=least, newest_ms=newest_ms),
        label_problem(held_out, found["test"], least=least, newest_ms=newest_ms),
        rows_problem(loop.settings, ratio),
    ]
    if reasons := [problem for problem in problems if problem]:
        raise Refused(reasons)
    return ratio


def train_step(loop: DayRun, samples: StepRecord, plan: Plan, base: Base, *, full: bool) -> StepRecord:
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


def bundle_step(loop: DayRun, samples: StepRecord, train: StepRecord) -> StepRecord:
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


def with_retrieval(loop: DayRun, samples: StepRecord, bundle: StepRecord, plan: RetrievalPlan | None) -> StepRecord:
    """The step whose output has all bundles of the day's release.

    Args:
        loop: the run.
        samples, bundle: steps that were taken.
        plan: of the retrieval model; None: none is trained.
    """
    from recsys.releases.release import open_release

    steps, base = loop.steps, Base(**loop.steps.state.base)
    if plan is not None:
        found = steps.path(_retrieval_bundle(loop, samples, plan)) / RETRIEVAL
    else:
        # Of the release that was served when the day began, so that it is the same however often the day is run
        served = open_release(loop.store, base.served) if base.served and loop.served is not None else None
        if served is None or served.retrieval is None:
            return bundle
        found = served.retrieval

    def make(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import put_together

        return put_together(folder, steps.path(bundle) / RANKING, found)

    from recsys.bundle import read_manifest

    inputs = {"ranking": bundle.facts["ranking"], "retrieval": read_manifest(found).version}
    return steps.take("release", inputs, make)


def _retrieval_bundle(loop: DayRun, samples: StepRecord, plan: RetrievalPlan) -> StepRecord:
    from recsys.pipeline.gate import not_found_notes
    from recsys.pipeline.settings import retrieval_config
    from recsys.training.settings import to_json

    steps, config, most = loop.steps, retrieval_config(loop.settings), loop.settings.retrieval.most_new_items

    def train(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.samples import open_samples
        from recsys.pipeline.train import train_retrieval

        dataset = open_samples(steps.path(samples), recent=None)
        return train_retrieval(config, dataset, folder, plan=plan, most_new_items=most, say=steps.say)

    inputs: dict[str, Any] = {"run": to_json(config), "data": samples.facts["data"], "kept": plan.version}
    if plan.keep is not None:
        inputs |= {"most new items": most, "since": plan.since_ms}
    trained = steps.take("retrieval", inputs, train, goes_on=True)
    if notes := not_found_notes(trained.facts):
        loop.notes += notes
        steps.say(f"note: {notes[0]}")

    def export(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import export_retrieval
        from recsys.pipeline.samples import open_samples

        dataset, at = open_samples(steps.path(samples), recent=None), iso(loop.day.until_ms)
        name = f"{loop.settings.name}-retrieval"
        return export_retrieval(steps.path(trained) / "run", dataset, folder, name=name, created_at=at)

    return steps.take("retrieval bundle", {"train": trained.key, "name": loop.settings.name}, export)


def _measure(loop: DayRun, name: str, samples: StepRecord, bundle: Path, version: str) -> StepRecord:
    steps, count = loop.steps, loop.settings.gate.samples

    def make(folder: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import measure_in
        from recsys.pipeline.samples import open_samples

        return measure_in(folder, bundle, open_samples(steps.path(samples), recent=None), samples=count)

    inputs = {"data": samples.facts["data"], "version": version, "samples": count}
    return steps.take(name, inputs, make)


def requests_step(loop: DayRun, samples: StepRecord, base: Base) -> StepRecord | None:
    """Compare the requests that live servers logged since the last release; None: nothing is to be compared."""
    from recsys.rows.files import find_files

    steps, given = loop.steps, loop.settings.gate.requests
    if not given or not base.served:  # before the first release no server answered
        return None
    files = [file.path for file in find_files(list(given))[0]]
    since_ms = base.until_ms or loop.day.until_ms - _DAY_MS
    digests = loop.digests.of(files)
    if not steps.dry:
        loop.digests.save()

    def make(_: Path) -> dict[str, Any]:
        from recsys.pipeline.gate import compare_logged
        from recsys.pipeline.samples import open_samples

        dataset = open_samples(steps.path(samples), recent=None)
        return compare_logged(dataset, files, since_ms=since_ms, until_ms=loop.day.until_ms)

    inputs = {"data": samples.facts["data"], "since": iso(since_ms), "until": iso(loop.day.until_ms)}
    return steps.take("requests", {**inputs, "requests": digests}, make, output=False)


def gate_step(
    loop: DayRun, samples: StepRecord, bundles: StepRecord, ratio: float | None, requests: StepRecord | None
) -> StepRecord:
    from recsys.bundle import read_manifest
    from recsys.errors import BundleError
    from recsys.pipeline.gate import candidate_of, judge, noise_notes, requests_note, requests_problem, running_release

    settings, steps, served = loop.settings, loop.steps, loop.served
    place = steps.path(bundles)
    running, unread = running_release(loop.store, served, settings.name)
    mine: dict[str, StepRecord] = {}
    theirs: dict[str, StepRecord] = {}
    for part, before in ((RANKING, ""), (RETRIEVAL, "retrieval ")):
        if not (own := place / part).is_dir():
            continue
        mine[part] = _measure(loop, f"{before}measure", samples, own, read_manifest(own).version)
        folder = None if running is None else getattr(running, part)
        if folder is None:
            continue
        try:
            version = read_manifest(folder).version
            theirs[part] = _measure(loop, f"{before}served", samples, folder, version)
        except (BundleError, InvalidInputError) as error:
            unread = f"the served release's {part} bundle cannot be measured on the held-out samples: {error}"
    inputs = {
        "measured": {part: step.key for part, step in mine.items()},
        "running measured": {part: step.key for part, step in theirs.items()},
        "served": "" if served is None else f"{served.revision} {served.models.get(settings.name)}",
        "gate": repr(settings.gate),
        "states": {"cold": settings.states.cold, "redis": bool(loop.redis_url)},
        "unread": unread,
        "requests": None if requests is None else requests.facts,
    }

    def make(_: Path) -> dict[str, Any]:
        from recsys.pipeline.bundle import read_measured

        pairs = {
            part: (read_measured(steps.path(mine[part])), read_measured(steps.path(theirs[part]))) for part in theirs
        }
        found = judge(settings, candidate_of(place), running, unread=unread, measured=pairs, redis=bool(loop.redis_url))
        notes = [*loop.notes, *found["notes"], *noise_notes(found["rows"])]
        if requests is not None:
            found["refusals"] += [problem for problem in (requests_problem(requests.facts),) if problem]
            notes += [note for note in (requests_note(requests.facts),) if note]
        return {**found, "rows_ratio": ratio, "notes": notes}

    return steps.take("gate", inputs, make, output=False)
