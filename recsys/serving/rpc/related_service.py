"""Related service: each call is convert, do, convert, under the caller's deadline, in the handler's thread."""

from __future__ import annotations

from recsys.proto import related_pb2 as pb
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.routes import similar_of
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
        telemetry: counts requests; None for none.
    """

    def __init__(self, models: ModelSlot, settings: Settings, *, telemetry: Telemetry | None = None) -> None:
        self._models = models
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
            return response
