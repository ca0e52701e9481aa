"""KeptReleases: releases that are served no more and stay loaded for a while, so that going back takes no time."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterable
from pathlib import Path

from recsys.releases.served import MAX_RELEASES, Served, ServedModel
from recsys.serving.process.releases.plan import Plan, PlannedRelease, planned_release, served_plan


class KeptReleases:
    """The time until which each is kept.

    Args:
        keep_s: how long; 0: not at all.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._until_s: dict[str, float] = {}

    def until_s(self) -> float:
        """The time at which the next one goes, ``time.monotonic`` seconds; infinite: none is kept."""
        return min(self._until_s.values(), default=math.inf)

    def changed(self, plan: Plan) -> None:
        """Note a plan that is in force now: the time of what it serves no more begins, that of the rest ends."""
        served = answering_or_shadow(plan.models.values())
        now_s = time.monotonic()
        self._until_s = {
            name: self._until_s.get(name, now_s + self._keep_s) for name in plan.releases if name not in served
        }

    def next_plan(
        self,
        store: Path,
        served: Served,
        plan: Plan,
        *,
        number: int,
        bad: Container[str] = (),
        anew: Container[str] = (),
    ) -> Plan:
        """The plan that follows another: what is served, and what is loaded and kept.

        Args:
            store: of the releases.
            served: what is to be in force.
            plan: what is loaded.
            number: of the next plan.
            bad: releases that are of no use any more: they are not kept.
            anew: loaded releases that are loaded once more if they are served, into another slot.

        Raises:
            ReleaseError: a release does not exist.
        """
        wanted = answering_or_shadow(served.models.values())
        kept = [name for name in plan.releases if name not in wanted and name not in bad and self._keeps(name)]
        kept.sort(key=lambda name: self._until_s.get(name, math.inf))
        kept = kept[max(0, len(kept) + len(wanted) - MAX_RELEASES) :]
        loaded = {name: plan.releases[name] for name in (*wanted, *kept) if name in plan.releases and name not in anew}
        # The slots of what is loaded now stay its own: calls that end yet are counted there
        free = iter(sorted(set(range(MAX_RELEASES)) - {release.slot for release in plan.releases.values()}))
        spare = iter(sorted({r.slot for name, r in plan.releases.items() if name not in loaded}))
        releases: dict[str, PlannedRelease] = {}
        for name in (*wanted, *kept):
            if name in loaded:
                releases[name] = loaded[name]
            else:
                slot = next(free, None)
                releases[name] = planned_release(store, name, slot=next(spare) if slot is None else slot)
        return served_plan(served, releases, number=number)

    def _keeps(self, name: str) -> bool:
        until_s = self._until_s.get(name)
        return self._keep_s > 0 if until_s is None else until_s > time.monotonic()


def answering_or_shadow(models: Iterable[ServedModel]) -> dict[str, None]:
    """Releases that answer or are compared, each once, in their order."""
    return dict.fromkeys(name for model in models for name in (*model.answering(), *model.shadow))
