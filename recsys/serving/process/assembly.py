"""Assembly: the Ranker service of some models, built from its parts."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack

from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.request_log import RequestLog
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.long_history.states import LongStates
from recsys.serving.process.models import Models
from recsys.serving.process.stores import Stores
from recsys.serving.rpc.ranker_service import RankerService
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry


def ranker_service(
    stack: ExitStack, settings: Settings, models: Models, stores: Stores, telemetry: Telemetry | None
) -> RankerService:
    """Build the service; its parts are closed with ``stack``.

    Args:
        stack: of the server, left after the last call has ended.
        settings: the server's.
        models: what is served.
        stores: where users and items are read.
        telemetry: counts; None for none.
    """
    ranker = None
    if models.ranking is not None:
        ranker = open_ranker(stack, settings, models.ranking, stores.blocking_store)
    recommender = None
    if models.retrieval is not None:
        recommender = Recommender(
            models.retrieval,
            ranker=ranker,
            store=stores.blocking_store,
            admission=Admission(settings.max_in_flight) if ranker is None else ranker.admission,
            model_lock=FairLock(1) if ranker is None else ranker.model_lock,
            store_timeout_s=settings.store_timeout_ms / 1000,
        )
    if telemetry is not None:
        sources = {} if ranker is None or ranker.states is None else {"states": ranker.states.counts}
        stack.enter_context(telemetry.polling({**sources, "items": stores.cache.counts}))
    return RankerService(ranker, settings, recommender=recommender, telemetry=telemetry)


def open_ranker(stack: ExitStack, settings: Settings, session: RankingSession, store: BlockingFeatureStore) -> Ranker:
    """Build a ranker as the settings have it; its parts are closed with ``stack``."""
    states = None
    if session.state is not None:
        states = LongStates(
            session.features, session.state, session.encode, store, session.version, settings.state_ttl_s
        )
        stack.enter_context(contextlib.closing(states))
    return Ranker(
        session,
        store=store,
        max_in_flight=settings.max_in_flight,
        store_timeout_s=settings.store_timeout_ms / 1000,
        states=states,
        request_log=_request_log(stack, settings, session.features),
    )


def _request_log(stack: ExitStack, settings: Settings, features: FeatureSet) -> RequestLog | None:
    if not settings.log_requests:
        return None
    log = RequestLog(settings.request_log_dir, share=settings.log_requests, features=features)
    return stack.enter_context(contextlib.closing(log))
