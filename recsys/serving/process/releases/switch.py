"""ReleaseSwitch: a worker's part of a switch: it loads what is new while it serves, and changes over when told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from recsys.errors import ReleaseError
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.recorder import Recorded
from recsys.serving.handlers.routes import LoadedRelease, Routes
from recsys.serving.process.assembly import SharedParts, make_routes, open_loaded_release
from recsys.serving.process.malloc import give_memory_back
from recsys.serving.process.models import open_models
from recsys.serving.process.releases.plan import Plan, PlannedRelease, planned_features
from recsys.serving.process.releases.replay.replay import ReplayReport, replay, touch_pages
from recsys.serving.process.startup import prepare_models
from recsys.serving.scheduling import short_turns


class ReleaseSwitch:
    """Changes the routes of a server from one plan to another, in two steps. Safe to use from several threads.

    Args:
        slot: holds the routes.
        shared: what all releases use. Its stores read by each plan's widest FeatureSet once that is prepared, and
            are written by it once it is in force.
        plan: that the routes follow now.
        models_changed: called after a switch with the names of the models before and after.
    """

    def __init__(
        self,
        slot: ModelSlot,
        shared: SharedParts,
        plan: Plan,
        *,
        models_changed: Callable[[Collection[str], Collection[str]], None] = lambda before, after: None,
    ) -> None:
        self._slot = slot
        self._shared = shared
        self._models_changed = models_changed
        self.plan = plan
        """The plan in force."""
        self._lock = threading.Lock()
        self._prepared: tuple[Plan, Routes] | None = None
        self._stop = threading.Event()
        self._known: set[str] = set()
        self._follow()

    def prepare(self, plan: Plan) -> tuple[ReplayReport, ...]:
        """Load what a plan has and this process has not; calls are answered as before.

        Releases that are to answer and never did are put to recorded requests first (``replay.py``).

        Returns:
            What was found of these.

        Raises:
            RecsysError: a release cannot be loaded, or is refused: nothing is changed, and what was loaded is closed.
                Or :meth:`abort` was called meanwhile.
        """
        with self._lock, short_turns():
            stop = self._stop = threading.Event()
            self._drop_prepared()
            have = {
                release.name: release
                for release in self._slot.routes().loaded
                if release.name not in plan.releases or self.plan.has(plan.releases[release.name])
            }
            self._shared.stores.read_as(self._shared.stores.widest(_features(plan, have)))
            made: dict[str, LoadedRelease] = {}
            try:
                for name, release in plan.releases.items():
                    if stop.is_set():
                        raise ReleaseError(f"plan {plan.number} was given up")
                    if name not in have:
                        made[name] = self._load(release)
                routes = make_routes(plan, {**have, **made})
                reports = tuple(self._replayed(routes, stop))
                self._prepared = plan, routes
                return reports
            except BaseException:
                _close(made)
                raise

    def _replayed(self, routes: Routes, stop: threading.Event) -> Iterator[ReplayReport]:
        """Replay each release that is to answer for the first time, beside the live one of that name."""
        settings, recorder = self._shared.settings, self._shared.recorder
        if not settings.release_replay:
            return
        before = self._slot.routes().models
        for name, route in routes.models.items():
            live = before[name].live if name in before else None
            for release in (route.live, *(other for other, _ in route.split)):
                if release.name in self._known:
                    continue
                recorded = Recorded() if recorder is None else recorder.recorded(name, settings.release_replay)
                yield replay(release, live, recorded, settings, route=name, stop=stop, quiet=self._is_quiet)
                ranker = release.ranker
                if recorder is not None and ranker is not None and ranker.session.guard.is_large:
                    touch_pages(ranker, recorder.recorded(name).requests, settings, stop=stop, quiet=self._is_quiet)

    def _is_quiet(self) -> bool:
        return not self._shared.admission.in_flight

    def _follow(self) -> None:
        """Note what answers now, or did: to go back to it is to take no time."""
        models = self.plan.models.values()
        self._known |= {name for model in models for name in (model.live, model.previous, *model.split)}
        self._known &= self.plan.releases.keys()
        if self._shared.recorder is not None:
            self._shared.recorder.follow(self.plan.models)

    def _load(self, release: PlannedRelease) -> LoadedRelease:
        models = open_models(release, self._shared.settings, verify="sizes", low_priority=True)
        prepare_models(models, self._shared.settings, beside_others=True)
        return open_loaded_release(release, models, self._shared)

    def commit(self, number: int) -> threading.Thread:
        """Change over to the plan of that number, which was prepared; returns at once.

        Returns:
            The thread that closes what the plan lacks, after its last call.

        Raises:
            ReleaseError: it was not prepared.
        """
        with self._lock:
            if self._prepared is None or self._prepared[0].number != number:
                raise ReleaseError(f"plan {number} is not prepared")
            before, (self.plan, routes), self._prepared = self.plan, self._prepared, None
            answered = _answering(self._slot.routes())
            self._follow()
            self._shared.stores.slot.take_over()
            closing = self._slot.replace(routes, timeout_s=self._shared.settings.drain_timeout_s)
            self._models_changed(before.models, self.plan.models)
            now = _answering(routes)
            rest = [release for release in answered if not any(release is other for other in now)]
            del answered, now  # the thread's list holds no release for longer than it takes
            threading.Thread(target=_rest, args=(rest,), name="pages", daemon=True).start()
            return closing

    def damaged(self) -> dict[str, str]:
        """Loaded releases that are of no use any more, and why."""
        return {release.name: why for release in self._slot.routes().loaded if (why := release.damage())}

    def stop_preparing(self) -> None:
        """Give up what is being prepared: a replay ends at once, a load when it is done. Returns at once."""
        self._stop.set()

    def abort(self) -> None:
        """Give up what was prepared, or is being prepared; returns when it is closed."""
        self._stop.set()
        with self._lock:
            self._drop_prepared()
        give_memory_back()

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            (_, routes), self._prepared = self._prepared, None
            used = {id(release) for release in self._slot.routes().loaded}
            _close({release.name: release for release in routes.loaded if id(release) not in used})


def _features(plan: Plan, have: Mapping[str, LoadedRelease]) -> dict[str, FeatureSet]:
    """The FeatureSets of a plan's releases, in their order."""
    return {n: have[n].features if n in have else planned_features(plan.releases[n]) for n in plan.names}


def _answering(routes: Routes) -> list[LoadedRelease]:
    found: list[LoadedRelease] = []
    for route in routes.models.values():
        found += [route.live, *(release for release, _ in route.split)]
    return found


def _rest(releases: list[LoadedRelease]) -> None:
    """Give the memory of what answers no more to what does now, where both have no room; empties the list."""
    while releases:
        releases.pop().rest()


def _close(releases: dict[str, LoadedRelease]) -> None:
    for release in releases.values():
        release.close()
