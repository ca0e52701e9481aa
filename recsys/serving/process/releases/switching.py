"""Switch: a switch of releases in progress, and releases in words."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.releases.served import Served, ServedModel
from recsys.serving.process.releases.check import Check
from recsys.serving.process.releases.plan import Plan

Process = subprocess.Popen[bytes]


@dataclass(kw_only=True)
class Switch:
    """A switch in progress.

    Attributes:
        plan, served: where to; ``served`` is what will be in force.
        reason: why the server goes back; empty if it goes where ``served.json`` says.
        trim: only releases that are kept no more go.
        check: the process that checks files; None when it has ended, or none was needed.
        progress: of the check, in words.
        waiting: workers that load, or then change over.
        reports: what their replays found.
        deaths: workers that ended meanwhile.
        started_s, until_s: ``time.monotonic`` seconds.
    """

    plan: Plan
    served: Served
    reason: str = ""
    trim: bool = False
    check: Check | None = None
    progress: str = ""
    waiting: set[Process] = field(default_factory=set)
    reports: list[str] = field(default_factory=list)
    deaths: int = 0
    started_s: float = field(default_factory=time.monotonic)
    until_s: float = math.inf

    def phase(self) -> tuple[str, str]:
        """Its phase in a word, and its progress in words."""
        if self.check is not None:
            return "checking", self.progress
        return "loading", f"{len(self.waiting)} workers are not ready"


def answers(served: Served, release: str) -> bool:
    """Decide if a release answers calls by this content."""
    return any(release in model.answering() for model in served.models.values())


def describe(models: Mapping[str, ServedModel]) -> str:
    """The releases of each model's name, in words."""
    texts = []
    for name, model in models.items():
        text = f"{name}: {model.live}"
        text += "".join(f", {release} for {percent:g} % of users" for release, percent in model.split.items())
        text += "".join(f", {release} beside {percent:g} % of calls" for release, percent in model.shadow.items())
        texts.append(text)
    return "; ".join(texts)


def names_of_new(plan: Plan, before: Plan) -> str:
    """The releases of a plan that the one before it lacks, in words."""
    return ", ".join(plan.releases.keys() - before.releases.keys()) or "the releases"
