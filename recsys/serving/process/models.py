"""Models of a server: one for ranking, one for retrieval, or both."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.bundle import open_bundle
from recsys.errors import BundleError
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.recommender import check_same_ids
from recsys.serving.inference.candidate_index import CandidateIndex
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.serving.settings import Settings, bundle_folder


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a server, at least one."""

    ranking: RankingSession | None
    retrieval: CandidateIndex | None

    @property
    def first(self) -> RankingSession | CandidateIndex:
        """The model that the server is published under."""
        found = self.ranking or self.retrieval
        assert found is not None
        return found

    @property
    def features(self) -> FeatureSet:
        """The FeatureSet that the store holds: the ranking model's, if there is one."""
        return self.first.features


def open_models(settings: Settings) -> Models:
    """Load and run what the settings name.

    Raises:
        ConfigError: no bundle is set.
        BundleError: a bundle is missing, altered, of the wrong kind, or does not fit this program or the other one.
    """
    threads = settings.intra_op_threads
    first = open_bundle(bundle_folder(settings), verify=settings.verify)
    if first.manifest.kind == "retrieval":
        if settings.retrieval is not None:
            raise BundleError(
                f"{first.path} is a retrieval bundle, and so is to be {settings.retrieval}; a server takes a ranking "
                "bundle, a retrieval bundle, or one of each"
            )
        return Models(None, open_retrieval(first, intra_op_threads=threads))
    ranking = open_ranking_session(first, intra_op_threads=threads, operators=settings.operators)
    retrieval = None
    if settings.retrieval is not None:
        retrieval = open_retrieval(open_bundle(settings.retrieval, verify=settings.verify), intra_op_threads=threads)
        check_same_ids(retrieval, ranking.features, ranking.model)
    return Models(ranking, retrieval)
