"""InService: the releases that a server has loaded, by slot: the labels of their series on the metrics page."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.drift import Drift
from recsys.serving.telemetry.release_figures import ReleaseFigures, read_release_figures
from recsys.serving.telemetry.slots import SlotCounts, read_slots

Role = Literal["live", "split", "shadow", "kept"]
"""Use of a release: it answers; answers a part of the users; is compared; is loaded for a rollback."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a loaded release; a release may have several, one for each name of a model.

    Attributes:
        slot: the place of its counts.
        release: its name.
        model: the name that requests ask for.
        version: of its first model: the ranking model's, or else the retrieval model's.
        role: what it is for.
    """

    slot: int
    release: str
    model: str
    version: str
    role: Role = "live"


@dataclass(frozen=True, kw_only=True)
class ReleaseCounts:
    """Everything that is counted of a release since it came into its slot.

    Attributes:
        figures: what is also in the server's status.
        slot: what only the metrics page shows.
        drift: of its scores (``drift.py``); None: too few are known.
    """

    figures: ReleaseFigures
    slot: SlotCounts
    drift: float | None


@dataclass(frozen=True)
class _Reading:
    figures: ReleaseFigures
    slot: SlotCounts


class InService:
    """The releases in service, and what their slots had counted when they came. Safe to use from several threads.

    A slot goes on counting when it gets another release; its figures here begin at zero then.

    Args:
        counts: the counter file; None: nothing is counted.
    """

    def __init__(self, counts: Path | None) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._uses: tuple[Use, ...] = ()
        self._before: dict[int, tuple[str, _Reading]] = {}
        self._drift = Drift()

    def set(self, uses: Iterable[Use]) -> None:
        """Replace what is in service. Call it before a slot's new release counts its first call.

        Raises:
            ConfigError: the counter file is not one of this program's.
        """
        uses = tuple(uses)
        names = {use.slot: use.release for use in uses}
        now = self._raw()
        with self._lock:
            before, earlier = self._before, self._uses
            self._uses = uses
            self._before = {
                slot: before[slot] if slot in before and before[slot][0] == name else (name, now[slot])
                for slot, name in names.items()
            }
            live = {use.model: use for use in earlier if use.role == "live"}
            known = {name for name, _ in before.values()}
            for use in reversed(uses):
                if use.release in known:
                    continue
                old = live.get(use.model)
                scores = None
                if old is not None and old.slot in before:
                    scores = (now[old.slot].slot - before[old.slot][1].slot).scores()
                self._drift.came(use.release, scores)
            for name in known - set(names.values()):
                self._drift.went(name)

    def uses(self) -> tuple[Use, ...]:
        """The uses there are."""
        with self._lock:
            return self._uses

    def figures(self) -> dict[str, ReleaseFigures]:
        """Figures of each loaded release, by name, since it came into its slot."""
        now = self._raw()
        with self._lock:
            return {name: now[slot].figures - before.figures for slot, (name, before) in self._before.items()}

    def counts(self) -> dict[str, ReleaseCounts]:
        """Everything that is counted of each loaded release, by name, since it came into its slot."""
        now, found = self._raw(), {}
        with self._lock:
            for slot, (name, before) in self._before.items():
                own = now[slot].slot - before.slot
                found[name] = ReleaseCounts(
                    figures=now[slot].figures - before.figures,
                    slot=own,
                    drift=self._drift.read(name, own.scores()),
                )
        return found

    def _raw(self) -> list[_Reading]:
        if self._counts is None:
            return [_Reading(ReleaseFigures(), SlotCounts())] * MAX_RELEASES
        figures, (_, slots) = read_release_figures(self._counts), read_slots(self._counts)
        return [_Reading(*pair) for pair in zip(figures, slots, strict=True)]
