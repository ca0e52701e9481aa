"""Coordinator: decides which releases the workers of a server serve, and takes them from one to another together.

One switch at a time, in steps::

    served.json changes -> checking (a process of its own) -> loading (every worker) -> all ready: commit -> watching
                              |                                 |                                            |
                              +-------- refused: nothing changes, the reason is said ----------+             +-> back

Runs in the supervisor's main thread: nothing here waits. One class, whose methods are the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from recsys.errors import RecsysError
from recsys.releases.lock import now
from recsys.releases.processes import own_process
from recsys.releases.served import SERVED, Served, served_text
from recsys.releases.status import ServerStatus
from recsys.serving.console import say
from recsys.serving.process.releases.check import Check, Checked, CheckEvent, CheckProgress, check_task, with_states
from recsys.serving.process.releases.first import WENT_BACK, FirstPlan
from recsys.serving.process.releases.follow import ServedRead
from recsys.serving.process.releases.kept import KeptReleases, before_watches, uses_in, ways_back
from recsys.serving.process.releases.plan import uses_of
from recsys.serving.process.releases.probation import Probation
from recsys.serving.process.releases.reloads import Reloads
from recsys.serving.process.releases.switching import Process, Switch, answers, describe, names_of_new
from recsys.serving.process.workers.messages import (
    Abort,
    AdminAnswer,
    AdminRequest,
    Commit,
    Committed,
    Damaged,
    Prepare,
    Prepared,
    Ready,
)
from recsys.serving.process.workers.pool import WorkerEvent, WorkerPool
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.in_service import InService

_PREPARE_S = 300.0
"""Longest time that the workers may take to load releases."""

_COMMIT_S = 10.0
"""Longest wait for the workers to say that they have changed over, which takes none; one that hangs is replaced."""

_MAX_DEATHS = 2
"""Workers that may end while they load: one may be killed by anybody; more are the release's fault."""

_TRIM_AGAIN_S = 10.0
"""Time until releases that should have gone, and could not, are to go again."""

_FIGURES_S = 5.0
"""Time between two statuses, whose figures go on."""


class Coordinator:
    """Takes the workers from one plan to the next.

    Args:
        settings: the server's.
        name: of the server, in its status: host and port.
        first: what the workers were started with.
        pool: the workers.
        events: gets those of checks.
        in_service: the releases on the metrics page, and their figures.
        counts: the file that the workers count in.
        publish: gets each new status.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        first: FirstPlan,
        pool: WorkerPool,
        events: SimpleQueue[Any],
        in_service: InService,
        counts: Path,
        publish: Callable[[ServerStatus], None],
    ) -> None:
        assert settings.releases is not None
        self._settings = settings
        self._store: Path = settings.releases
        self._name = name
        self._pool = pool
        self._events = events
        self._in_service = in_service
        self._probation = Probation(settings, counts)
        self._switches = Telemetry(counts)
        self._publish = publish
        self.plan = first.plan
        """The plan in force: of whoever starts now, too."""
        self.confirmed = first.plan
        """The last plan that every worker has changed over to."""
        self._served = first.served
        self._wanted = first.wanted
        self._refused = first.refused
        self._unreadable = ""
        self._before: Served | None = None
        self._dead_ends: set[str] = set()
        self._trim_at_s = -math.inf
        self._switch: Switch | None = None
        self._changing: Switch | None = None
        self._resumed: Served | None = None
        self._number = first.plan.number
        self._kept = KeptReleases(max(settings.release_keep_s, settings.release_watch_s))
        self._cold = dict(first.cold)
        self._damaged: dict[str, str] = {}
        self._reloads = Reloads(pool)
        self._process = own_process()
        self._published_s = -math.inf
        self._changed = True

    @property
    def asks_for_reload(self) -> bool:
        """True once after the admin service was told to reload."""
        return self._reloads.taken()

    def handle(self, event: Any) -> None:
        """Take an event: of a worker (after the pool did), of a check, or of the follower; None for none."""
        if isinstance(event, ServedRead):
            self._read(event)
        elif isinstance(event, CheckEvent):
            self._checked(event)
        elif isinstance(event, WorkerEvent):
            self._of_worker(event)
        self._tick()

    def wait_s(self) -> float:
        """Seconds until :meth:`handle` has something to do by itself."""
        times = [self._published_s + _FIGURES_S, self._probation.due_s]
        times.append(self._trim_due_s() if self._switch is None else self._switch.until_s)
        return max(0.0, min(times) - time.monotonic())

    def go_back(self, reason: str, *, model: str = "") -> bool:
        """Return to the releases before the last switch, or to the previous ones of ``served.json``.

        Args:
            reason: it names the release and what was wrong.
            model: the one whose release it is; empty: all go back.

        Returns:
            False if there is nothing to go back to.
        """
        if self._switch is not None and self._switch.reason:
            return True  # on the way already
        back = next(ways_back(self._served, self._before, model=model, bad=self._damaged, tried=self._dead_ends), None)
        if back is None:
            return False
        if self._switch is not None and not self._switch.trim:
            self._resumed = self._switch.served  # on its way to other releases: that goes on afterwards
        say(f"going back: {reason}")
        self._begin(back, reason=reason)
        return True

    def status(self) -> ServerStatus:
        """The state of the server."""
        phase, progress = "serving" if self._pool.all_started else "starting", ""
        if watched := self._probation.progress():
            phase, progress = "watching", watched
        if self._changing is not None:
            phase = "switching"
        elif self._switch is not None and not self._switch.trim:
            phase, progress = self._switch.phase()
        served = {name for model in self.confirmed.models.values() for name in model.answering()}
        warnings = [f"{name}: {why}" for name, why in self._damaged.items()]
        warnings += [f"{name}: {why}" for name, why in self._cold.items() if name in served]
        return ServerStatus(
            server=self._name,
            at=now(),
            revision=self._wanted.revision,
            phase=phase,
            progress=progress,
            models=self.confirmed.models,
            loaded=tuple(self.confirmed.releases),
            refused=self._unreadable or self._refused,
            warnings=tuple(warnings),
            releases={name: figures.as_dict() for name, figures in self._in_service.figures().items()},
            process=self._process,
        )

    def _read(self, event: ServedRead) -> None:
        before, self._unreadable, self._resumed = self._unreadable, event.error, None
        self._changed = True
        if event.served is None:
            self._switches.count("release_switches", "refused")
            say(f"refused: {event.error}; serving on with {describe(self.plan.models)}")
            self._reloads.answer(self.status())
            return
        if before:
            say(f"{SERVED} can be read again")
        same = served_text(event.served) == served_text(self._wanted)
        self._wanted = event.served
        # The file of a damaged release may have been repaired: asked for, it is loaded once more
        repair = event.asked and any(answers(self._served, name) for name in self._damaged)
        if same and not repair and not (event.asked and self._refused):
            if self._changing is None and (self._switch is None or self._switch.trim):
                self._reloads.answer(self.status())
            return
        if not repair and uses_in(event.served) == uses_in(self._served):  # another revision of the same
            self._served, self._changed = event.served, True
            if self._switch is None or not self._switch.reason:  # going back goes on
                self._refused = ""
                self._drop_switch()
                self._reloads.answer(self.status())
            return
        self._refused = ""  # that was of the content before
        self._dead_ends.clear()
        self._begin(event.served, repair=repair)

    def _begin(self, served: Served, *, reason: str = "", trim: bool = False, repair: bool = False) -> None:
        """Start a switch, in the place of one in progress."""
        self._drop_switch()
        self._number += 1
        # What is damaged here may have been repaired in the store; what answers all the same has nothing before it
        answering = {name for model in self._served.models.values() for name in model.answering() if not repair}
        anew = () if trim else self._damaged.keys() - answering
        try:
            plan = self._kept.next_plan(
                self._store, served, self.plan, number=self._number, bad=self._damaged, anew=anew
            )
            switch = self._switch = Switch(plan=plan, served=served, reason=reason, trim=trim)
            if new := tuple(release for release in plan.releases.values() if not self.plan.has(release)):
                switch.check = Check(plan.number, check_task(new, self._settings), self._events)
                self._changed = True
        except RecsysError as error:
            self._refuse(str(error), back=(served, reason) if reason else None)
            return
        if not new:
            self._load(switch)

    def _checked(self, event: CheckEvent) -> None:
        switch = self._switch
        if switch is None or switch.check is None or event.number != switch.plan.number:
            return
        if isinstance(event.message, CheckProgress):
            done, total = event.message.done_bytes, event.message.total_bytes
            switch.progress = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB checked"
            self._changed = True
        elif isinstance(event.message, Checked):
            switch.check = None
            switch.plan = with_states(switch.plan, event.message)
            self._cold.update(event.message.cold)
            self._load(switch)
        else:
            self._refuse(str(event.message))

    def _load(self, switch: Switch) -> None:
        switch.until_s = time.monotonic() + _PREPARE_S
        for process in self._pool.serving():
            self._prepare(switch, process)
        self._changed = True
        self._commit_if_ready()

    def _prepare(self, switch: Switch, process: Process) -> None:
        switch.waiting.add(process)
        self._pool.send(process, Prepare(plan=switch.plan))

    def _of_worker(self, event: WorkerEvent) -> None:
        message, switch = event.message, self._switch
        if isinstance(message, AdminRequest):
            if message.reload:
                self._reloads.add(event.process, message)
            else:
                self._pool.send(event.process, AdminAnswer(number=message.number, status=self.status()))
        elif isinstance(message, Damaged):
            self._found_damaged(message)
        elif isinstance(message, Committed | int) and self._changing is not None:
            self._changing.waiting.discard(event.process)
            self._finish()
        if switch is None or switch.check is not None:
            return
        if isinstance(message, Prepared) and message.plan == switch.plan.number:
            if message.refused:
                self._refuse(message.refused)
                return
            switch.waiting.discard(event.process)
            if message.report:
                switch.reports.append(message.report)
            self._commit_if_ready()
        elif isinstance(message, Ready) and event.process in self._pool.serving():
            self._prepare(switch, event.process)
        elif isinstance(message, int) and event.process in switch.waiting:
            switch.waiting.discard(event.process)
            switch.deaths += 1
            if switch.deaths > _MAX_DEATHS:
                self._refuse(f"{switch.deaths} workers ended while they loaded {names_of_new(switch.plan, self.plan)}")
            else:
                self._commit_if_ready()

    def _commit_if_ready(self) -> None:
        switch, serving = self._switch, self._pool.serving()
        if switch is None or switch.waiting or not (serving or switch.reason):
            return
        before, self.plan, self._switch = self.plan, switch.plan, None
        self._in_service.set(uses_of(switch.plan))  # before a slot's new release counts a call
        self._pool.set_plan(switch.plan)  # first of all: whoever dies now comes back with it
        for process in serving:
            self._pool.send(process, Commit(plan=switch.plan.number))
        self._kept.changed(self.plan)
        stay = {name for name, release in self.plan.releases.items() if before.has(release)}
        self._damaged = {name: why for name, why in self._damaged.items() if name in stay}
        self._cold = {name: why for name, why in self._cold.items() if name in self.plan.releases}
        if switch.trim:
            self.confirmed = switch.plan
            return
        self._dead_ends.clear()
        watched = self._probation.begin(
            before, self.plan, deaths=self._pool.deaths, workers=len(serving), watched=not switch.reason
        )
        followed = switch.served if switch.reason else self._served
        self._before = None if switch.reason and not watched else before_watches(watched, self._before, followed)
        self._served, self._refused = switch.served, f"{WENT_BACK}{switch.reason}" if switch.reason else ""
        self._switches.count("release_switches", "went_back" if switch.reason else "switched")
        self._changing, switch.waiting = switch, set(serving)
        switch.until_s = time.monotonic() + _COMMIT_S

    def _finish(self) -> None:
        """Say that a switch is done, when every worker has changed over."""
        switch = self._changing
        if switch is None or (switch.waiting and time.monotonic() < switch.until_s):
            return
        self._changing, self._changed, self.confirmed = None, True, switch.plan
        took_s = time.monotonic() - switch.started_s
        say(f"serving {describe(switch.served.models)} (revision {switch.served.revision}, switched in {took_s:.2f} s)")
        for report in dict.fromkeys(switch.reports):
            say(f"replay: {report}")
        if switch.reason:
            self._resume()
        if self._switch is None or self._switch.trim:
            self._reloads.answer(self.status())

    def _resume(self) -> bool:
        """Go on to where the server was on its way when it had to go back; False if it was not."""
        served, self._resumed = self._resumed, None
        if served is not None:
            self._begin(served)
        return served is not None

    def _found_damaged(self, message: Damaged) -> None:
        if message.release not in self.plan.releases or message.release in self._damaged:
            return
        self._damaged[message.release] = message.why
        self._changed = True
        say(f"damaged: {message.why}")
        switch = self._switch
        newly = switch is not None and not answers(self._served, message.release)
        if switch is not None and newly and answers(switch.served, message.release):
            self._begin(switch.served, reason=switch.reason)  # once more, to load it anew
        if answers(self._served, message.release) and not self.go_back(message.why):
            say(
                "there is no release to go back to: calls of it fail; push its bundles again and send SIGHUP, or "
                "promote another"
            )

    def _refuse(self, reason: str, *, back: tuple[Served, str] | None = None) -> None:
        """Give up the switch, or the content of ``served.json``; what is served stays.

        Args:
            reason: why.
            back: where the server was to go back to, and why; None: as the switch says.
        """
        switch = self._switch
        self._drop_switch()
        if switch is not None and switch.trim:
            self._trim_at_s = time.monotonic() + _TRIM_AGAIN_S
            return
        if back is None and switch is not None and switch.reason:
            back = switch.served, switch.reason
        if back is not None:
            say(f"refused: {reason}")
            self._dead_ends.add(served_text(back[0]))
            if self.go_back(back[1]) or self._resume():
                return
            reason = f"{back[1]}; and it cannot go back: {reason}"
        self._refused, self._changed = reason, True
        self._switches.count("release_switches", "refused")
        say(f"refused: {reason}; serving on with {describe(self.plan.models)}")
        self._reloads.answer(self.status())

    def _drop_switch(self) -> None:
        switch, self._switch = self._switch, None
        if switch is None:
            return
        if switch.check is not None:
            switch.check.stop()
        for process in self._pool.serving():
            self._pool.send(process, Abort(plan=switch.plan.number))

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._finish()
        switch = self._switch
        if switch is not None and now_s >= switch.until_s:
            self._refuse(
                f"{len(switch.waiting)} workers did not load {names_of_new(switch.plan, self.plan)} in {_PREPARE_S:g} s"
            )
        found = self._probation.look(deaths=self._pool.deaths)
        if found is not None and not self.go_back(found.reason, model=found.model):
            say(f"there is no release to go back to: {found.reason}")
        if self._switch is None and self._trim_due_s() <= now_s:
            self._begin(self._served, trim=True)
        if self._changed or now_s >= self._published_s + _FIGURES_S:
            self._changed, self._published_s = False, now_s
            self._publish(self.status())

    def _trim_due_s(self) -> float:
        """The time at which a release that was kept for long enough is to go."""
        return max(self._trim_at_s, self._kept.until_s())
