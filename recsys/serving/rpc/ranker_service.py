"""Ranker service: each call is convert, do, convert, under the caller's deadline, in the handler's thread."""

from __future__ import annotations

from recsys.errors import NotFoundError
from recsys.proto import ranker_pb2
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.ranker import rank_together
from recsys.serving.handlers.routes import Route, Routes, ranker_of, recommender_of
from recsys.serving.rpc.calls import Context, abort_on_error, deadline_of
from recsys.serving.rpc.convert import rank as convert
from recsys.serving.rpc.convert import retrieval as convert_retrieval
from recsys.serving.rpc.convert.answers import Degradable, degraded_parts
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.stage_timer import StageTimer


class RankerService:
    """``recsys.v1.Ranker``.

    Args:
        models: each call is answered by those that are there at its start.
        settings: the server's.
        telemetry: counts requests; None for none.
    """

    def __init__(
        self,
        models: ModelSlot,
        settings: Settings,
        *,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._models = models
        self._settings = settings
        self._telemetry = telemetry

    def Rank(self, message: ranker_pb2.RankRequest, context: Context) -> ranker_pb2.RankResponse:
        """Score candidates."""
        return abort_on_error(context, lambda: self._rank(message, self._deadline(context)))

    def _rank(self, message: ranker_pb2.RankRequest, deadline: Deadline) -> ranker_pb2.RankResponse:
        with self._models.current() as routes:
            route = routes.ranking(message.model)
            request = convert.rank_request(message, route.live.features, max_candidates=self._settings.max_candidates)
            result = ranker_of(route.of_user(request.user_key)).rank(request, deadline=deadline)
            response = convert.rank_response(result, request)
            self._count(request.timer, len(request.candidate_keys), result)
            return response

    def RankBatch(self, message: ranker_pb2.RankBatchRequest, context: Context) -> ranker_pb2.RankBatchResponse:
        """Score the candidates of several requests."""
        return abort_on_error(context, lambda: self._rank_batch(message, self._deadline(context)))

    def _rank_batch(self, message: ranker_pb2.RankBatchRequest, deadline: Deadline) -> ranker_pb2.RankBatchResponse:
        convert.check_batch(message)
        with self._models.current() as routes:
            routed = _routes_of(message, routes)
            features = [route.live.features for route in routed]
            requests = convert.batch_requests(message, features, max_candidates=self._settings.max_candidates)
            rankers = [
                ranker_of(route.of_user(request.user_key)) for route, request in zip(routed, requests, strict=True)
            ]
            results = rank_together(rankers, requests, deadline=deadline)
            answers = [convert.rank_response(*pair) for pair in zip(results, requests, strict=True)]
            self._count(requests[0].timer, sum(len(request.candidate_keys) for request in requests), *results)
            return ranker_pb2.RankBatchResponse(responses=answers)

    def Retrieve(self, message: ranker_pb2.RetrieveRequest, context: Context) -> ranker_pb2.RetrieveResponse:
        """Retrieve the best items of all."""
        return abort_on_error(context, lambda: self._retrieve(message, self._deadline(context)))

    def _retrieve(self, message: ranker_pb2.RetrieveRequest, deadline: Deadline) -> ranker_pb2.RetrieveResponse:
        with self._models.current() as routes:
            route = routes.retrieval(message.model)
            query = convert_retrieval.retrieve_query(message, route.live.features)
            recommender = recommender_of(route.of_user(query.user_key))
            result = recommender.retrieve(query, deadline=deadline)
            response = convert_retrieval.retrieve_response(
                result, query, names=recommender.index.names, include_timings=message.timings
            )
            self._count(query.timer, 0, result)
            return response

    def Recommend(self, message: ranker_pb2.RecommendRequest, context: Context) -> ranker_pb2.RecommendResponse:
        """Retrieve the best items of all, and rank them."""
        return abort_on_error(context, lambda: self._recommend(message, self._deadline(context)))

    def _recommend(self, message: ranker_pb2.RecommendRequest, deadline: Deadline) -> ranker_pb2.RecommendResponse:
        with self._models.current() as routes:
            route, limit = routes.recommending(message.model), self._settings.max_candidates
            query = convert_retrieval.recommend_query(message, route.live.features, max_candidates=limit)
            recommender = routes.recommender(route, message.retrieval_model, query.user_key)
            result = recommender.recommend(query, deadline=deadline)
            response = convert_retrieval.recommend_response(
                result, query, names=recommender.index.names, include_timings=message.timings
            )
            self._count(query.timer, result.candidates, result)
            return response

    def _count(self, timer: StageTimer, candidates: int, *results: Degradable) -> None:
        if self._telemetry is None:
            return
        timer.lap("convert")
        timer.finish()
        self._telemetry.observe(timer.in_us())
        self._telemetry.count("candidates", by=candidates)
        for result in results:
            for part in degraded_parts(result):
                self._telemetry.count("degraded", part)

    def _deadline(self, context: Context) -> Deadline:
        return deadline_of(context, default_s=self._settings.default_deadline_ms / 1000)


def _routes_of(message: ranker_pb2.RankBatchRequest, routes: Routes) -> list[Route]:
    found = []
    for place, request in enumerate(message.requests):
        try:
            found.append(routes.ranking(request.model))
        except NotFoundError as error:
            raise NotFoundError(f"requests[{place}]: {error}") from None
    return found
