"""First plan of a server of releases: what ``served.json`` says, or the releases before, if that is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from recsys.errors import ConfigError, RecsysError, ReleaseError
from recsys.releases.served import SERVED, Served, ServedModel, read_served
from recsys.releases.status import ServerStatus, read_statuses
from recsys.serving.console import say
from recsys.serving.process.releases.check import Check, Checked, CheckProgress, CheckTask, check_task, with_states
from recsys.serving.process.releases.kept import answering_or_shadow, without
from recsys.serving.process.releases.plan import Plan, planned_release, served_plan
from recsys.serving.settings import Settings

_SAID_BYTES = 1 << 30
"""Releases from this size on take long enough to check that progress is said."""

WENT_BACK = "went back: "
"""Begins the reason of a status when the server left a release after it had served it."""


@dataclass(frozen=True, kw_only=True)
class FirstPlan:
    """The plan that a server starts with.

    Attributes:
        plan: for the workers.
        served: what is in force.
        wanted: the content of ``served.json``.
        refused: why these differ; empty if they do not.
        cold: release -> what is to be said of users whose states it lacks.
    """

    plan: Plan
    served: Served
    wanted: Served
    refused: str = ""
    cold: Mapping[str, str] = field(default_factory=dict)


def first_plan(settings: Settings, *, server: str) -> FirstPlan:
    """Read what is to be served, check its files, and plan it.

    Args:
        settings: the server's.
        server: its name, under which it may have left a status.

    Raises:
        ConfigError: nothing was promoted yet.
        RecsysError: what is to be served is refused, and so are the releases before, if there are any.
    """
    assert settings.releases is not None
    store = settings.releases
    wanted = read_served(store)
    if wanted is None:
        raise ConfigError(f"{store}: nothing is served yet; `recsys release promote RELEASE` says what")
    names = answering_or_shadow(wanted.models.values())
    left = _left_before(store, server, wanted)
    states: dict[str, Checked] = {}
    if left is None:
        bad = _check_each(settings, store, names, states)
        served, refused = without(wanted, bad) if bad else wanted, "; ".join(bad.values())
    else:
        refused, served = left.refused, _went_back_to(left, wanted)
    if served is None:
        raise ReleaseError(f"{refused}; there is no release before it in {store / SERVED}: promote another")
    if refused:
        say(f"refused: {refused}; starting without it")
        names = answering_or_shadow(served.models.values())
        if worse := _check_each(settings, store, names, states):
            raise ReleaseError("; ".join((refused, *worse.values())))
    releases = {name: planned_release(store, name, slot=slot) for slot, name in enumerate(names)}
    plan = served_plan(served, releases, number=1)
    cold: dict[str, str] = {}
    for checked in states.values():
        plan, cold = with_states(plan, checked), {**cold, **checked.cold}
    return FirstPlan(plan=plan, served=served, wanted=wanted, refused=refused, cold=cold)


def _went_back_to(left: ServerStatus, wanted: Served) -> Served | None:
    """The releases that a server had gone back to; None: there are none."""
    if wanted.default not in left.models or left.models == _without_previous(wanted):  # it ended on the way
        return without(wanted, {model.live for model in wanted.models.values()})
    previous = {name: model.previous for name, model in wanted.models.items()}
    models = {n: dataclasses.replace(model, previous=previous.get(n, "")) for n, model in left.models.items()}
    return dataclasses.replace(wanted, models=models)


def _without_previous(served: Served) -> dict[str, ServedModel]:
    return {name: dataclasses.replace(model, previous="") for name, model in served.models.items()}


def _left_before(store: Path, server: str, wanted: Served) -> ServerStatus | None:
    """The status of this server when it had left what it is to serve, before it was started again."""
    for seen in read_statuses(store)[0]:
        status = seen.status
        if status.server == server and status.revision == wanted.revision and status.refused.startswith(WENT_BACK):
            return status
    return None


def _check_each(settings: Settings, store: Path, names: Iterable[str], states: dict[str, Checked]) -> dict[str, str]:
    """The releases that cannot be served, and why; the others are put into ``states``."""
    bad = {}
    for name in names:
        try:
            if name not in states:
                states[name] = _check(check_task((planned_release(store, name),), settings))
        except RecsysError as error:
            bad[name] = str(error)
    return bad


def _check(task: CheckTask) -> Checked:
    events: SimpleQueue[Any] = SimpleQueue()
    check = Check(1, task, events)
    try:
        while not isinstance(message := events.get().message, Checked):
            if not isinstance(message, CheckProgress):
                raise message
            if message.total_bytes >= _SAID_BYTES:
                say(f"{message.done_bytes / 1e6:,.0f} of {message.total_bytes / 1e6:,.0f} MB checked")
        return message
    finally:
        check.stop()
