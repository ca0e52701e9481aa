"""Related service: each call is convert, do, convert, under the caller's deadline, in the handler's thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import StoreError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.proto import related_pb2 as pb
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.related.trending import TrendingFinder
from recsys.serving.handlers.routes import audience_of, similar_of
from recsys.serving.rpc.answer_counts import Answer, AnswerCounts
from recsys.serving.rpc.calls import Context, abort_on_error, deadline_of
from recsys.serving.rpc.convert import related as convert
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry


class RelatedService:
    """``recsys.v1.Related``. No call names a user, so the live release answers, whatever the split.

    Args:
        models: each call is answered by those that are there at its start.
        settings: the server's.
        store: for what is trending, and the texts of ids.
        features: gives the FeatureSet by which the store is read now.
        trending: counts of events.
        telemetry: counts requests; None for none.
    """

    def __init__(
        self,
        models: ModelSlot,
        settings: Settings,
        *,
        store: BlockingFeatureStore,
        features: Callable[[], FeatureSet],
        trending: TrendingFinder,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._models = models
        self._store, self._features = store, features
        self._trending = trending
        self._telemetry = telemetry
        self._default_s = settings.default_deadline_ms / 1000
        self._counts = AnswerCounts(telemetry)

    def Similar(self, message: pb.SimilarRequest, context: Context) -> pb.SimilarResponse:
        """Find items like given ones."""
        return abort_on_error(context, lambda: self._similar(message, context))

    def _similar(self, message: pb.SimilarRequest, context: Context) -> pb.SimilarResponse:
        deadline = deadline_of(context, default_s=self._default_s)
        with self._models.current() as routes:
            release = routes.retrieval(message.model).live
            query = convert.similar_query(message, release.features)
            with self._counts.failures(deadline, [release]):
                recommender, finder = similar_of(release)
                result = finder.find(query, deadline=deadline)
                response = convert.similar_response(
                    result, query, names=recommender.index.names, include_timings=message.timings
                )
            self._counts.answered(query.timer, [Answer(release, result)])
            known = int(np.count_nonzero(result.known))
            for item, seeds in (("known", known), ("unknown", len(result.known) - known)):
                if seeds and self._telemetry is not None:
                    self._telemetry.count("similar_seeds", item, by=seeds)
            return response

    def Audience(self, message: pb.AudienceRequest, context: Context) -> pb.AudienceResponse:
        """Find the users who have most of some items."""
        return abort_on_error(context, lambda: self._audience(message, context))

    def _audience(self, message: pb.AudienceRequest, context: Context) -> pb.AudienceResponse:
        deadline = deadline_of(context, default_s=self._default_s)
        with self._models.current() as routes:
            release = routes.retrieval(message.model).live
            query = convert.audience_query(message, release.features)
            with self._counts.failures(deadline, [release]):
                result = audience_of(release).find(query, deadline=deadline)
                response = convert.audience_response(
                    result, query, features=release.features, include_timings=message.timings
                )
            self._counts.answered(query.timer, [Answer(release, result)])
            return response

    def Trending(self, message: pb.TrendingRequest, context: Context) -> pb.TrendingResponse:
        """Find the items with most events lately. It runs no model and holds no place of those that do."""
        return abort_on_error(context, lambda: self._find_trending(message, context))

    def _find_trending(self, message: pb.TrendingRequest, context: Context) -> pb.TrendingResponse:
        deadline = deadline_of(context, default_s=self._default_s)
        features = self._features()
        query = convert.trending_query(message, features)
        result = self._trending.find(query, deadline=deadline)
        texts = None
        if features.item_id.id_type == "string":
            texts = self._texts(features.item_id.table, result.items, deadline)
            query.timer.lap("store")
        if result.stale and self._telemetry is not None:
            self._telemetry.count("trending_stale")
        if result.attributes_degraded and self._telemetry is not None:
            self._telemetry.count("degraded", "attributes")
        response = convert.trending_response(result, query, texts=texts, include_timings=message.timings)
        deadline.check_caller()
        return response

    def _texts(self, table: str, items: Int64Array, deadline: Deadline) -> dict[int, str]:
        """Texts of items, of the served bundles and else of the store; without it, of the bundles alone."""
        names = self._models.names()
        found = dict(zip(items.tolist(), names[table].find(items), strict=True)) if table in names else {}
        texts = {item: text for item, text in found.items() if text is not None}
        lacking = [item for item in items.tolist() if item not in texts]
        with contextlib.suppress(StoreError):
            texts |= self._store.names(lacking, timeout_s=deadline.remaining_s() / 2) if lacking else {}
        return texts
