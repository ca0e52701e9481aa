"""Ranker service: each call is convert, do, convert, under the caller's deadline, in the handler's thread."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.errors import NotFoundError
from recsys.proto import ranker_pb2
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.explain.explainer import explain
from recsys.serving.handlers.explain.place import place_of
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.queries import RecommendResult, RetrieveResult
from recsys.serving.handlers.ranker import rank_together
from recsys.serving.handlers.routes import LoadedRelease, Route, Routes, ranker_of, recommender_of
from recsys.serving.handlers.shadow import Retrieved, Shadow
from recsys.serving.rpc.answer_counts import Answer, AnswerCounts
from recsys.serving.rpc.calls import Context, abort_on_error, deadline_of
from recsys.serving.rpc.convert import explain as convert_explain
from recsys.serving.rpc.convert import rank as convert
from recsys.serving.rpc.convert import retrieval as convert_retrieval
from recsys.serving.rpc.convert.answers import degraded_parts
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.families import FALLBACKS
from recsys.serving.telemetry.stage_timer import StageTimer

EXPLAIN_S = 10.0
"""Time that Explain may take when its caller set no deadline."""


class RankerService:
    """``recsys.v1.Ranker``.

    Args:
        models: each call is answered by those that are there at its start.
        settings: the server's.
        telemetry: counts requests; None for none.
        shadow: gets what was answered and ranked; None: no release is compared.
    """

    def __init__(
        self,
        models: ModelSlot,
        settings: Settings,
        *,
        telemetry: Telemetry | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self._models = models
        self._settings = settings
        self._counts = AnswerCounts(telemetry)
        self._shadow = shadow
        self._explaining = Admission(1, what="explanation is being made")

    def Rank(self, message: ranker_pb2.RankRequest, context: Context) -> ranker_pb2.RankResponse:
        """Score candidates."""
        return abort_on_error(context, lambda: self._rank(message, self._deadline(context)))

    def _rank(self, message: ranker_pb2.RankRequest, deadline: Deadline) -> ranker_pb2.RankResponse:
        with self._models.current() as routes:
            route = routes.ranking(message.model)
            request = convert.rank_request(message, route.live.features, max_candidates=self._settings.max_candidates)
            release = route.of_user(request.user_key)
            with self._counts.failures(deadline, [release]):
                result = ranker_of(release).rank(request, deadline=deadline)
                response = convert.rank_response(result, request)
            self._answered(request.timer, [route], [Answer(release, result, result.ranked)])
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
            releases = [route.of_user(request.user_key) for route, request in zip(routed, requests, strict=True)]
            failed: list[LoadedRelease] = []
            with self._counts.failures(deadline, releases, at=failed):
                results = rank_together(
                    [ranker_of(release) for release in releases],
                    requests,
                    deadline=deadline,
                    on_failed=lambda places: failed.extend(releases[place] for place in places),
                )
                responses = [convert.rank_response(*pair) for pair in zip(results, requests, strict=True)]
            answers = [Answer(release, found, found.ranked) for release, found in zip(releases, results, strict=True)]
            self._answered(requests[0].timer, routed, answers)
            return ranker_pb2.RankBatchResponse(responses=responses)

    def Retrieve(self, message: ranker_pb2.RetrieveRequest, context: Context) -> ranker_pb2.RetrieveResponse:
        """Retrieve the best items of all."""
        return abort_on_error(context, lambda: self._retrieve(message, self._deadline(context)))

    def _retrieve(self, message: ranker_pb2.RetrieveRequest, deadline: Deadline) -> ranker_pb2.RetrieveResponse:
        with self._models.current() as routes:
            route = routes.retrieval(message.model)
            query = convert_retrieval.retrieve_query(message, route.live.features)
            release = route.of_user(query.user_key)
            with self._counts.failures(deadline, [release]):
                recommender = recommender_of(release)
                result = recommender.retrieve(query, deadline=deadline)
                response = convert_retrieval.retrieve_response(
                    result, query, names=recommender.index.names, include_timings=message.timings
                )
            self._counts.answered(query.timer, [Answer(release, result, None, _history(result), _fallback(result))])
            if self._shadow is not None and route.shadow:
                answered = Retrieved(query=query, items=result.items)
                self._shadow.offer(route, release, answered, degraded=result.user_degraded)
            return response

    def Recommend(self, message: ranker_pb2.RecommendRequest, context: Context) -> ranker_pb2.RecommendResponse:
        """Retrieve the best items of all, and rank them."""
        return abort_on_error(context, lambda: self._recommend(message, self._deadline(context)))

    def _recommend(self, message: ranker_pb2.RecommendRequest, deadline: Deadline) -> ranker_pb2.RecommendResponse:
        with self._models.current() as routes:
            route, limit = routes.recommending(message.model), self._settings.max_candidates
            query = convert_retrieval.recommend_query(message, route.live.features, max_candidates=limit)
            release = route.of_user(query.user_key)
            with self._counts.failures(deadline, [release]):
                recommender = routes.recommender(route, message.retrieval_model, query.user_key)
                result = recommender.recommend(query, deadline=deadline)
                response = convert_retrieval.recommend_response(
                    result, query, names=recommender.index.names, include_timings=message.timings
                )
            self._answered(
                query.timer, [route], [Answer(release, result, result.ranked, _history(result), _fallback(result))]
            )
            return response

    def Explain(self, message: ranker_pb2.ExplainRequest, context: Context) -> ranker_pb2.ExplainResponse:
        """Explain a score. It holds no place of the calls that are ranked, and counts to no release."""
        return abort_on_error(context, lambda: self._explain(message, deadline_of(context, default_s=EXPLAIN_S)))

    def _explain(self, message: ranker_pb2.ExplainRequest, deadline: Deadline) -> ranker_pb2.ExplainResponse:
        with self._explaining.enter(), self._models.current() as routes:
            route = routes.ranking(message.model)
            asked = route.release(message.release) if message.release else None
            features = (asked or route.live).features
            query = convert_explain.explain_query(message, features)
            release = asked or route.of_user(query.user_key)
            listed = convert_explain.list_query(message, features, max_candidates=self._settings.max_candidates)
            place = None
            if listed is not None:
                answer = recommender_of(release).recommend_unseen(listed, deadline=deadline)
                place = place_of(query.item_key, listed, answer)
            found = explain(ranker_of(release), query, deadline=deadline, names=release.names)
            deadline.check_caller()
            return convert_explain.explain_response(found, ranker_of(release).features, place=place)

    def _answered(self, timer: StageTimer, routes: Sequence[Route], answers: Sequence[Answer]) -> None:
        self._counts.answered(timer, answers)
        if self._shadow is None:
            return
        for route, answer in zip(routes, answers, strict=True):
            if route.shadow:
                degraded = bool(degraded_parts(answer.result))
                self._shadow.offer(route, answer.release, answer.ranked, degraded=degraded)

    def _deadline(self, context: Context) -> Deadline:
        return deadline_of(context, default_s=self._settings.default_deadline_ms / 1000)


def _fallback(result: RetrieveResult | RecommendResult) -> str:
    return "" if result.user_known else "trending" if result.trending else FALLBACKS[result.segment]


def _history(result: RetrieveResult | RecommendResult) -> tuple[int, int]:
    return result.history_known, result.history_unknown


def _routes_of(message: ranker_pb2.RankBatchRequest, routes: Routes) -> list[Route]:
    found = []
    for place, request in enumerate(message.requests):
        try:
            found.append(routes.ranking(request.model))
        except NotFoundError as error:
            raise NotFoundError(f"requests[{place}]: {error}") from None
    return found
