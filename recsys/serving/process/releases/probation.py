"""Probation: releases that answer since a switch are watched for a while; a verdict on one is a reason to go back."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

from recsys.serving.process.releases.plan import Plan
from recsys.serving.process.releases.watch import RecentFigures, Watch
from recsys.serving.settings import Settings
from recsys.serving.telemetry.release_figures import read_release_figures

_EVERY_S = 1.0
_FEWEST_DEATHS = 3


class Verdict(NamedTuple):
    """A reason to go back, and the model whose release it is of; empty: of any."""

    reason: str
    model: str


class Probation:
    """Watches of the releases that answer since the last switch. Used from one thread.

    Args:
        settings: the server's; its time and bounds.
        counts: the file that the workers count in.
    """

    def __init__(self, settings: Settings, counts: Path) -> None:
        self._settings = settings
        self._counts = counts
        self._recent = RecentFigures()
        self._watches: list[Watch] = []
        self._looked_s = -math.inf
        self._deaths = 0
        self._most_deaths = math.inf

    @property
    def due_s(self) -> float:
        """The time of the next look, ``time.monotonic`` seconds."""
        return self._looked_s + _EVERY_S

    def begin(self, before: Plan, plan: Plan, *, deaths: int, workers: int, watched: bool) -> set[str]:
        """Watch what answers by ``plan`` and did not by the one before it.

        Earlier watches go on, if their releases still answer.

        Args:
            before: the plan before the switch.
            plan: the plan in force.
            deaths: of workers, so far.
            workers: how many there are.
            watched: False: nothing new is watched, as after going back.

        Returns:
            The models of which an earlier watch goes on.
        """
        now_s = time.monotonic()
        slots = {release.slot: name for name, release in before.releases.items()}
        for name, release in plan.releases.items():
            if slots.get(release.slot) != name:
                self._recent.began(release.slot, now_s)
        earlier = [w for w in self._watches if w.model in plan.models and w.release in plan.models[w.model].answering()]
        self._watches = earlier
        going_on = {watch.model for watch in earlier}
        if not watched or not self._settings.release_watch_s:
            return going_on
        if not earlier:
            self._deaths = deaths
        self._most_deaths = max(_FEWEST_DEATHS, workers + 1)
        for model, served in plan.models.items():
            known = before.models.get(model)
            if known is None:
                continue
            for name in served.answering():
                if name not in known.answering():
                    watch = Watch(
                        self._recent,
                        model=model,
                        release=name,
                        slot=plan.releases[name].slot,
                        previous=known.live,
                        previous_slot=before.releases[known.live].slot,
                        settings=self._settings,
                        now_s=now_s,
                    )
                    self._watches.append(watch)
        return going_on

    def look(self, *, deaths: int) -> Verdict | None:
        """Read the figures, if it is time to.

        Args:
            deaths: of workers, so far.

        Returns:
            The reason to go back; None: there is none.
        """
        now_s = time.monotonic()
        if now_s < self.due_s:
            return None
        self._looked_s = now_s
        self._recent.add(read_release_figures(self._counts), now_s)
        if self._watches and deaths - self._deaths >= self._most_deaths:
            names = ", ".join(repr(watch.release) for watch in self._watches)
            self._watches = []
            return Verdict(f"{deaths - self._deaths} workers ended by themselves since {names} went live", "")
        for watch in self._watches:
            if reason := watch.look(now_s):
                self._watches = [other for other in self._watches if other.model != watch.model]
                return Verdict(reason, watch.model)
        self._watches = [watch for watch in self._watches if not watch.finished(now_s)]
        return None

    def progress(self) -> str:
        """The watches in words; empty: nothing is watched."""
        return "; ".join(watch.progress() for watch in self._watches)
