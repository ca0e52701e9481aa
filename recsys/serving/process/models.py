"""Models of a release: one for ranking, one for retrieval, or both."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.bundle import open_bundle
from recsys.bundle.verify import Verify
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.recommender import check_same_ids
from recsys.serving.inference.candidate_index import CandidateIndex
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.serving.process.releases.plan import PlannedRelease
from recsys.serving.settings import Settings


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a release, at least one."""

    ranking: RankingSession | None
    retrieval: CandidateIndex | None

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


def open_models(release: PlannedRelease, settings: Settings, *, verify: Verify | None = None) -> Models:
    """Load and run the models of a release.

    Args:
        release: whose they are.
        settings: the server's.
        verify: the check of the files; None: as the settings say.

    Raises:
        BundleError: a bundle is missing, altered, of the wrong kind, or does not fit this program or the other one.
    """
    threads, verify = settings.intra_op_threads, verify or settings.verify
    ranking = retrieval = None
    if release.ranking is not None:
        bundle = open_bundle(release.ranking, verify=verify)
        ranking = open_ranking_session(bundle, intra_op_threads=threads, operators=settings.operators)
    if release.retrieval is not None:
        retrieval = open_retrieval(open_bundle(release.retrieval, verify=verify), intra_op_threads=threads)
        if ranking is not None:
            check_same_ids(retrieval, ranking.features, ranking.model)
    return Models(ranking, retrieval)
