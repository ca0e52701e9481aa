"""A real server, in the test's own process, of a plan of several releases, and what it counts of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsys.releases.served import ServedModel
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.server import RunningServer, serving
from recsys.serving.process.startup import load_models
from recsys.serving.rpc.methods import METHODS
from recsys.serving.settings import Settings
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.release_figures import ReleaseFigures, read_release_figures


@dataclass(frozen=True)
class PlanServer:
    """A running server and its counter file."""

    server: RunningServer
    counts: Path
    slots: Mapping[str, int]

    @property
    def address(self) -> str:
        """host:port."""
        return self.server.address

    def figures(self, release: str) -> ReleaseFigures:
        """Figures of a release so far."""
        return read_release_figures(self.counts)[self.slots[release]]


def plan_of(model: ServedModel, folders: Mapping[str, Path], *, number: int = 1) -> Plan:
    """A plan of ranking bundles, for requests that ask for ``m``; slots in the order of the folders."""
    releases = {
        name: PlannedRelease(name=name, ranking=path, retrieval=None, slot=slot)
        for slot, (name, path) in enumerate(folders.items())
    }
    return Plan(number=number, models={"m": model}, default="m", releases=releases)


@contextmanager
def plan_server(plan: Plan, settings: Settings, folder: Path) -> Iterator[PlanServer]:
    """Serve a plan for the duration of a ``with`` block; its counts are in ``folder``."""
    counts = create_counter_file(folder / "counts", workers=1, methods=METHODS.values())
    with load_models(settings, plan) as loaded, serving(settings, *loaded, counts=counts) as server:
        yield PlanServer(server, counts, {name: release.slot for name, release in plan.releases.items()})
