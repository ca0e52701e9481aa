"""Plan: the releases that a server loads, and which of them answers what. The supervisor makes it, for its workers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recsys.bundle import FileState, read_manifest
from recsys.errors import BundleError
from recsys.features.feature_set import FeatureSet
from recsys.releases.release import find_releases, open_release, release_name
from recsys.releases.served import Served, ServedModel
from recsys.serving.settings import Settings, bundle_folder
from recsys.serving.telemetry.in_service import InService, Role, Use

Verified = Mapping[Path, Mapping[str, FileState]]
"""States of the files of folders that were verified in full (``Bundle.states``)."""


@dataclass(frozen=True, kw_only=True)
class PlannedRelease:
    """A release to load.

    Attributes:
        name: of the release.
        ranking, retrieval: folders of its bundles, at least one.
        slot: the place of its counts among those of all releases, from 0.
        version: of its ranking bundle, or else of its retrieval bundle.
        verified: of a folder that was verified in full for all processes of the server, the states of its files then
            (``Bundle.states``): who loads it hashes those that were changed since.
    """

    name: str
    ranking: Path | None
    retrieval: Path | None
    slot: int = 0
    version: str = ""
    verified: Verified = field(default_factory=dict)

    def bundles(self) -> list[Path]:
        """The folders that there are."""
        return [path for path in (self.ranking, self.retrieval) if path is not None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Releases to load, and their use.

    Attributes:
        number: grows with each plan of a server.
        models: name that requests ask for -> its releases.
        default: the name that a request without one means.
        releases: all to be loaded, by name: those of ``models``, and others that are kept for a rollback.
        revision: of the ``served.json`` that it follows; 0: it serves bundles.
    """

    number: int
    models: Mapping[str, ServedModel]
    default: str
    releases: Mapping[str, PlannedRelease]
    revision: int = 0

    def used(self) -> set[str]:
        """Releases that answer or are compared; the others are kept for a rollback."""
        return {name for model in self.models.values() for name in model.used()}

    @property
    def first(self) -> PlannedRelease:
        """The live release of the default model."""
        return self.releases[self.models[self.default].live]

    def has(self, release: PlannedRelease) -> bool:
        """Decide if a release is loaded by this plan already; in another slot it is to be loaded once more."""
        mine = self.releases.get(release.name)
        return mine is not None and mine.slot == release.slot

    @property
    def names(self) -> list[str]:
        """Names of all releases, the live one of the default model first."""
        return list(dict.fromkeys([self.first.name, *self.releases]))


def bundle_plan(settings: Settings, verified: Verified | None = None) -> Plan:
    """The plan of a server of the bundles that its settings name, without a store of releases.

    Args:
        settings: the server's.
        verified: see :class:`PlannedRelease`.

    Raises:
        ConfigError: no bundle is set.
        BundleError: a bundle is missing, or two are of the same kind.
    """
    path = bundle_folder(settings)
    first = read_manifest(path)
    ranking, retrieval = (path, settings.retrieval) if first.kind == "ranking" else (None, path)
    if ranking is None and settings.retrieval is not None:
        raise BundleError(
            f"{path} is a retrieval bundle, and so is to be {settings.retrieval}; a server takes a ranking "
            "bundle, a retrieval bundle, or one of each"
        )
    versions = {first.kind: first.version}
    if ranking is not None and retrieval is not None:
        versions["retrieval"] = read_manifest(retrieval).version
    name = release_name(first.model, versions.get("ranking", ""), versions.get("retrieval", ""))
    return Plan(
        number=1,
        models={first.model: ServedModel(live=name)},
        default=first.model,
        releases={
            name: PlannedRelease(
                name=name, ranking=ranking, retrieval=retrieval, version=first.version, verified=verified or {}
            )
        },
    )


def planned_release(store: Path, name: str, *, slot: int = 0) -> PlannedRelease:
    """A release of a store, to load; raises ReleaseError."""
    found = open_release(store, name)
    first = found.release.ranking or found.release.retrieval
    assert first is not None
    return PlannedRelease(name=name, ranking=found.ranking, retrieval=found.retrieval, slot=slot, version=first.version)


def planned_features(release: PlannedRelease) -> FeatureSet:
    """The FeatureSet of what a release reads in the store: its ranking model's, if there is one; raises BundleError."""
    return read_manifest(release.bundles()[0]).feature_set


def pushed_features(store: Path | None) -> dict[str, FeatureSet]:
    """The FeatureSets of all releases of a store by name, the newest first; without those that cannot be read."""
    found: dict[str, FeatureSet] = {}
    if store is not None:
        for release in reversed(find_releases(store)[0]):
            with contextlib.suppress(BundleError):
                found[release.release.name] = release.features()
    return found


def served_plan(served: Served, releases: Mapping[str, PlannedRelease], *, number: int) -> Plan:
    """The plan that follows ``served.json``; ``releases``: all to be loaded."""
    return Plan(
        number=number, models=served.models, default=served.default, releases=releases, revision=served.revision
    )


def uses_of(plan: Plan) -> list[Use]:
    """List the uses of a plan's releases, for the metrics page."""
    roles: list[tuple[str, str, Role]] = []
    for model, served in plan.models.items():
        roles.append((served.live, model, "live"))
        roles += [(name, model, "split") for name in served.split]
        roles += [(name, model, "shadow") for name in served.shadow]
    used = {name for name, _, _ in roles}
    previous = {served.previous: model for model, served in plan.models.items()}
    roles += [(name, previous.get(name, plan.default), "kept") for name in plan.releases if name not in used]
    return [
        Use(slot=release.slot, release=name, model=model, version=release.version, role=role)
        for name, model, role in roles
        for release in (plan.releases[name],)
    ]


def in_service(plan: Plan, counts: Path | None) -> InService:
    """The releases of a server's first plan, as the metrics page shows them."""
    made = InService(counts)
    made.set(uses_of(plan))
    return made
