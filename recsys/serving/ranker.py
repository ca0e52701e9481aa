"""Ranking one request: read the store, encode, run the model, pick the best.

Knows nothing of gRPC. Shapes use ``C`` candidates.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recsys.errors import NotFoundError, nearest
from recsys.feature_store.base import FeatureStore
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.hashing import Int64Array
from recsys.serving.admission import Admission, Deadline
from recsys.serving.request_log import RequestLog
from recsys.serving.session import MAX_CHUNK, Float32Array, Scores, Session

ModelThread = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """One request.

    Attributes:
        user_key: key of the user's id.
        candidate_keys: keys of the candidates, shape [C], C >= 1; may hold duplicates.
        features: raw values of user and context features that override stored ones.
        top_k: 0 for all scores in the candidates' order.
        model: the model asked for; empty for the one there is.
        time_ms: events with an earlier timestamp count; default: the first millisecond after now.
    """

    user_key: int
    candidate_keys: Int64Array
    features: Mapping[str, Sequence[Any]]
    top_k: int = 0
    model: str = ""
    time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResult:
    """The answer.

    Attributes:
        scores: [C], or [min(top_k, distinct candidates)], best first.
        positions: with top_k, where each score's candidate first stood in the request; else None.
        user_degraded, items_degraded: that part of the store could not be read.
    """

    scores: Float32Array
    positions: Int64Array | None
    model: str
    model_version: str
    history_events: int
    user_degraded: bool
    items_degraded: bool


class Ranker:
    """Ranks with one model and one feature store.

    Args:
        session: the model.
        store: read for each request; not closed here.
        max_in_flight: requests ranked at a time; more are refused.
        store_timeout_s: longest wait for the store in one request.
        model_thread: ``on`` runs the model in one worker thread: ONNX Runtime releases the interpreter lock, so
            with a second core the event loop goes on answering (a model of 3 ms gave 280 requests a second
            instead of 210). ``off`` runs it in the event loop, which on one core saves the hand-over: 0.3 to 0.5 ms
            a request. ``auto`` is ``off`` where the process may use only one core. Requests of more than
            ``MAX_CHUNK`` candidates always run in the thread: they take long, and the loop must answer meanwhile.
        request_log: gets a share of the requests; not closed here.
    """

    def __init__(
        self,
        session: Session,
        *,
        store: FeatureStore,
        max_in_flight: int,
        store_timeout_s: float,
        model_thread: ModelThread = "auto",
        request_log: RequestLog | None = None,
    ) -> None:
        self.features = session.features
        self._session = session
        self._store = store
        self._admission = Admission(max_in_flight)
        self._store_timeout_s = store_timeout_s
        self._request_log = request_log
        self._inline = model_thread == "off" or (model_thread == "auto" and _cores() == 1)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    def close(self) -> None:
        """Let the worker thread go."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def rank(self, request: RankRequest, *, deadline: Deadline) -> RankResult:
        """Rank a request's candidates. Trouble with the store degrades the answer and never fails it.

        Raises:
            NotFoundError: another model was asked for.
            OverloadedError: there is no room.
            TimeoutError: the deadline has passed.
            InvalidInputError: a feature's name or value is not what the FeatureSet declares.
        """
        if request.model not in ("", self._session.model):
            hint = nearest(request.model, [self._session.model])
            raise NotFoundError(f"model {request.model!r} is not served here: {hint}")
        with self._admission.enter():
            positions = _first_positions(request.candidate_keys)
            keys = request.candidate_keys if positions is None else request.candidate_keys[positions]
            # The store gets at most half of the time left, so that a slow one costs the history, not the answer.
            time_ms = request.time_ms if request.time_ms is not None else time.time_ns() // 1_000_000 + 1
            timeout_s = min(self._store_timeout_s, deadline.remaining_s() / 2)
            inputs = await self._store.read_for_rank(request.user_key, keys, time_ms=time_ms, timeout_s=timeout_s)
            encoded = encode_request(
                self.features,
                user_key=request.user_key,
                user_columns=inputs.user_columns,
                request_values=request.features,
                events=inputs.events,
                item_keys=keys,
                item_columns=inputs.item_columns,
            )
            if self._inline and len(keys) <= MAX_CHUNK:
                answer = self._score(encoded, deadline)
            else:
                loop = asyncio.get_running_loop()
                answer = await deadline.wait(loop.run_in_executor(self._worker, self._score, encoded, deadline))
        scores, best = answer.scores, None
        if self._request_log is not None and self._request_log.wanted():
            self._request_log.offer(
                encoded,
                time_ms=time_ms,
                sent=sorted(request.features),
                degraded=inputs.user_degraded or inputs.items_degraded,
                model=self._session.model,
                model_version=self._session.version,
                scores=scores,
            )
        if request.top_k:
            # By logit: scores of very good candidates round to the same float32. Stable: ties keep their order.
            order = np.argsort(-answer.logits, kind="stable")[: request.top_k]
            scores, best = scores[order], order if positions is None else positions[order]
        elif positions is not None:
            scores = _spread(scores, keys=keys, onto=request.candidate_keys)
        return RankResult(
            scores=scores,
            positions=best,
            model=self._session.model,
            model_version=self._session.version,
            history_events=encoded.history_events,
            user_degraded=inputs.user_degraded,
            items_degraded=inputs.items_degraded,
        )

    def _score(self, encoded: EncodedRequest, deadline: Deadline) -> Scores:
        deadline.remaining_s()  # waiting for its turn may have taken all the time
        return self._session.score(encoded, deadline=deadline)


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_positions(keys: Int64Array) -> Int64Array | None:
    """Where each distinct key first stands, ascending; None if all are distinct."""
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def _spread(scores: Float32Array, *, keys: Int64Array, onto: Int64Array) -> Float32Array:
    """Give every element of ``onto`` the score of its equal in ``keys`` (distinct)."""
    order = np.argsort(keys)
    found: Float32Array = scores[order][np.searchsorted(keys[order], onto)]
    return found
