"""Models of a release: one for ranking, one for retrieval, or both."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import Bundle, open_bundle
from recsys.bundle.verify import Verify
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.recommender import check_pair
from recsys.serving.inference.candidate_index import CandidateIndex
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.inference.related.audience import AudienceIndex, open_audience
from recsys.serving.inference.related.neighbours import UserNeighbours, open_neighbours
from recsys.serving.inference.related.similar import SimilarItems, open_similar
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.serving.inference.table_guard import TableGuard
from recsys.serving.process.releases.plan import PlannedRelease
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a release, at least one.

    Attributes:
        ranking, retrieval: the models.
        similar: beside a retrieval model: its search for items like others; None: its bundle has none.
        neighbours: beside it: items that share users with others; None: its bundle has none.
        audience: beside it: users of items; None: its bundle has none.
        guards: of the tables of those that have some.
    """

    ranking: RankingSession | None
    retrieval: CandidateIndex | None
    similar: SimilarItems | None = None
    neighbours: UserNeighbours | None = None
    audience: AudienceIndex | None = None
    guards: tuple[TableGuard, ...] = ()

    @property
    def first(self) -> RankingSession | CandidateIndex:
        """The model that the release is published under."""
        found = self.ranking or self.retrieval
        assert found is not None
        return found

    @property
    def features(self) -> FeatureSet:
        """The FeatureSet that the store holds: the ranking model's, if there is one."""
        return self.first.features

    def damage(self) -> str:
        """Look at the files of the tables; returns the damage to them, which is for good, or an empty text."""
        return next(filter(None, (guard.damage() for guard in self.guards)), "")

    def rest(self) -> None:
        """Answer no calls for now: where memory is short, the tables' pages go."""
        for guard in self.guards:
            guard.rest()

    def let_pages_go(self) -> None:
        """Unmap the tables' pages, some at a time, after the last call."""
        for guard in self.guards:
            guard.let_pages_go()


def open_models(
    release: PlannedRelease, settings: Settings, *, verify: Verify | None = None, low_priority: bool = False
) -> Models:
    """Load and run the models of a release.

    Args:
        release: whose they are.
        settings: the server's.
        verify: the check of the files; None: as the settings say.
        low_priority: leave the core to calls that are answered meanwhile.

    Raises:
        BundleError: a bundle is missing, altered, of the wrong kind, or does not fit this program or the other one.
        ModelError: a table was changed or could not be read meanwhile.
    """
    threads, verify = settings.intra_op_threads, verify or settings.verify
    ranking = retrieval = similar = neighbours = audience = None
    guards = []
    if release.ranking is not None:
        bundle = _open_bundle(release, release.ranking, verify)
        ranking = open_ranking_session(
            bundle,
            intra_op_threads=threads,
            operators=settings.operators,
            release=release.name,
            low_priority=low_priority,
        )
        guards.append(ranking.guard)
    if release.retrieval is not None:
        bundle = _open_bundle(release, release.retrieval, verify)
        retrieval = open_retrieval(
            bundle,
            intra_op_threads=threads,
            operators=settings.operators,
            release=release.name,
            low_priority=low_priority,
        )
        _say_what_is_not_proven(bundle)
        similar = open_similar(
            bundle,
            retrieval,
            intra_op_threads=threads,
            operators=settings.operators,
            low_priority=low_priority,
        )
        with retrieval.guard.loading():
            neighbours, audience = open_neighbours(bundle, retrieval), open_audience(bundle, retrieval.guard)
        guards.append(retrieval.guard)
        if ranking is not None:
            check_pair(retrieval, ranking.features, ranking.model)
    return Models(ranking, retrieval, similar, neighbours, audience, tuple(guards))


def _say_what_is_not_proven(bundle: Bundle) -> None:
    """Log that a retrieval bundle's lists may lack items."""
    index = bundle.manifest.index
    if index is not None and not index.is_proven:
        by_length = sorted(index.recalls.items(), key=lambda each: int(each[0]))
        recalls = ", ".join(f"{recall:.4f} of lists of {k}" for k, recall in by_length)
        _log.info(
            "retrieval model %r finds items by codes of %s: its lists are not proven to be exact; measured at export "
            "on %d users: %s",
            bundle.manifest.model,
            index.coarse,
            index.users,
            recalls,
        )


def _open_bundle(release: PlannedRelease, path: Path, verify: Verify) -> Bundle:
    return open_bundle(path, verify=verify, verified=release.verified.get(path))
