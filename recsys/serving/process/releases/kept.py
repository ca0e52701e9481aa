"""KeptReleases: releases that are served no more and stay loaded for a while; and where to go back to."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from recsys.releases.served import MAX_RELEASES, Served, ServedModel, served_text
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
        used, now_s = plan.used(), time.monotonic()
        self._until_s = {
            name: self._until_s.get(name, now_s + self._keep_s) for name in plan.releases if name not in used
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
        # First those that nothing has: calls of what goes that end yet are counted in its own
        taken = {release.slot for release in plan.releases.values()}
        going = {release.slot for name, release in plan.releases.items() if name not in loaded}
        slots = [*sorted(set(range(MAX_RELEASES)) - taken), *sorted(going)]
        releases: dict[str, PlannedRelease] = {}
        for name in (*wanted, *kept):
            if name not in loaded:
                own = plan.releases[name].slot if name in plan.releases else None
                # Not its own, or it would pass for what is loaded
                slot = next((each for each in slots if each != own), slots[0])
                slots.remove(slot)
                loaded[name] = planned_release(store, name, slot=slot)
            releases[name] = loaded[name]
        return served_plan(served, releases, number=number)

    def _keeps(self, name: str) -> bool:
        until_s = self._until_s.get(name)
        return self._keep_s > 0 if until_s is None else until_s > time.monotonic()


def answering_or_shadow(models: Iterable[ServedModel]) -> dict[str, None]:
    """Releases that answer or are compared, each once, in their order."""
    return dict.fromkeys(name for model in models for name in model.used())


def without(served: Served, bad: Container[str]) -> Served | None:
    """Serve previous releases in the place of bad ones, and leave these out of splits and shadows.

    Returns:
        None if a bad release is live and there is none before it.
    """
    models = {}
    for name, model in served.models.items():
        live = model.live
        if live in bad:
            live = model.previous
            if not live or live in bad:
                if len(served.models) == 1 or name == served.default:
                    return None
                continue
        keep = {r: p for r, p in model.split.items() if r not in bad and r != live}
        shadow = {r: p for r, p in model.shadow.items() if r not in bad and r != live}
        models[name] = dataclasses.replace(model, live=live, split=keep, shadow=shadow)
    return dataclasses.replace(served, models=models) if models else None


def uses_in(served: Served) -> tuple[object, ...]:
    """The part of ``served.json`` that servers act upon: equal where they have nothing to do."""
    uses = {name: (m.live, dict(m.split), dict(m.shadow)) for name, m in served.models.items()}
    return uses, served.default


def ways_back(
    served: Served, before: Served | None, *, model: str, bad: Container[str], tried: Container[str]
) -> Iterator[Served]:
    """List where to go back to, the best first.

    Args:
        served: what is served.
        before: what was, before that.
        model: the one that is to go back, if that is enough; empty: all.
        bad: releases that are of no use.
        tried: texts of those that were refused.
    """
    # The last one is where no release is known to be the one to blame: the live ones are.
    live = {each.live for each in served.models.values()}
    for back in (_only(model, served, before), before, without(served, bad), without(served, live)):
        if back is None or served_text(back) in tried or uses_in(back) == uses_in(served):
            continue
        if not any(name in bad for each in back.models.values() for name in each.answering()):
            yield back


def _only(model: str, served: Served, before: Served | None) -> Served | None:
    """Combine what is served and one of its models as it was before."""
    if before is None or model not in before.models or model not in served.models:
        return None
    return dataclasses.replace(served, models={**served.models, model: before.models[model]})


def before_watches(watched: Container[str], earlier: Served | None, served: Served) -> Served:
    """Tell where to go back to from what follows ``served``: of models that are still watched, to before they were."""
    if earlier is None:
        return served
    models = {name: model for name, model in earlier.models.items() if name in watched and name in served.models}
    return dataclasses.replace(served, models={**served.models, **models})
