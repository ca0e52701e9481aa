"""A profile of a bundle: real requests through the server's own path, in this process, on one core.

A request is what a handler does with a message's bytes: parse, convert, read the store, run the graphs, make the
answer's bytes. gRPC itself and the network are not in it. Then the same requests run again with ONNX Runtime's profiler
on, which tells the operators' times and costs each some.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.arrays import Float64Array
from recsys.bundle import Bundle, open_bundle
from recsys.errors import BundleError, InvalidInputError
from recsys.feature_store.embedded.open_redis import redis_or_embedded
from recsys.profile.matmul import integer_matmul_gops, matmul_gflops
from recsys.profile.operators import Operator, read_operators
from recsys.profile.requests import encoded_requests, made_load, opened_stores, stored_load, with_integer_ids
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.inference.graphs import load_graph
from recsys.serving.inference.ranking_session import RankingSession, graph_names, open_ranking_session
from recsys.serving.inference.table_guard import TableGuard
from recsys.serving.process.assembly import open_loaded_release, open_shared_parts
from recsys.serving.process.models import Models
from recsys.serving.process.releases.plan import PlannedRelease
from recsys.serving.process.stores import Stores
from recsys.serving.rpc.convert.rank import rank_request, rank_response
from recsys.serving.settings import Settings
from recsys.serving.telemetry.stage_timer import STAGES, StageTimer

DEFAULT_HISTORY = 1_000
_PROFILED = 100
_SETTLE_S = 0.2
"""For states to be written, which happens off the path."""

_DEADLINE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Times of a profile: medians over the requests, in microseconds.

    Attributes:
        model, model_version: the bundle's.
        candidates: per request.
        history_events: past events that the model looked at, mean.
        requests, degraded: how many were measured; how many of them lacked a part of the store.
        core: which one; None where a process cannot be bound to one.
        cpu_share: how much of the time the process computed; the rest it waited for Redis, or for the core.
        stages_us: stage -> median; they need not add up to ``total``, which is one too.
        total_p99_us: of ``total``.
        operators: of all graphs, slowest first.
        flop, integer_op: of one request's matrix products: float32, int8.
        matmul_gflops, integer_matmul_gops: what this core does in a large product; 0 where none was wanted.
    """

    model: str
    model_version: str
    candidates: int
    history_events: float
    requests: int
    degraded: int
    core: int | None
    cpu_share: float
    stages_us: Mapping[str, float]
    total_p99_us: float
    operators: Sequence[Operator]
    flop: int
    integer_op: int
    matmul_gflops: float
    integer_matmul_gops: float

    @property
    def bound_us(self) -> float:
        """Time of the matrix products alone at the speed of a large one."""
        bound = self.flop / self.matmul_gflops / 1e3 if self.matmul_gflops else 0.0
        return bound + (self.integer_op / self.integer_matmul_gops / 1e3 if self.integer_matmul_gops else 0.0)

    @property
    def model_us(self) -> float:
        """The graphs' part of a request."""
        return self.stages_us["user_graph"] + self.stages_us["rank_graph"]

    @property
    def candidates_per_s(self) -> float:
        """One request after another, on one core."""
        return self.candidates / self.stages_us["total"] * 1e6


def profile_bundle(
    path: Path,
    *,
    redis_url: str | None = None,
    history: int | None = None,
    candidates: int = 200,
    requests: int = 300,
    core: int | None = None,
) -> Profile:
    """Measure a bundle.

    Args:
        path: its folder.
        redis_url: ask about users of this store; states may be written to it, nothing else is. None: a private one.
        history: events of each user in a private store; default: 1,000, or as many as a history may have.
        candidates: per request.
        requests: how many are measured.
        core: where to run; None: the last one there is.

    Raises:
        InvalidInputError: a number is out of range, ``history`` of a store of one's own, or that store has no users.
        BundleError: the bundle is missing, altered, no ranking bundle, or does not fit this program.
        StoreError: the store cannot be read.
    """
    for name, value, least in (("candidates", candidates, 1), ("requests", requests, 1), ("history", history or 0, 0)):
        if value < least:
            raise InvalidInputError(f"{name} is {value}; allowed: {least} or more")
    if redis_url is not None and history is not None:
        raise InvalidInputError("history is of made users; with a Redis of your own, its users have theirs")
    bundle = open_bundle(path)
    if bundle.manifest.kind != "ranking":
        raise BundleError(
            f"{path}: a {bundle.manifest.kind} bundle; allowed: a ranking bundle, of which Rank is asked (of a "
            "retrieval bundle: with --retrieval)"
        )
    settings = Settings(bundle=path, store_timeout_ms=1_000, max_candidates=max(10_000, candidates))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-profile-")))
        url = stack.enter_context(redis_or_embedded(redis_url, folder / "redis"))
        chosen = stack.enter_context(bound_to(core))
        stores = stack.enter_context(opened_stores(url, bundle.features, settings))
        store = stores.blocking_store
        if redis_url is None:
            length = _default_history(bundle) if history is None else history
            load = made_load(bundle, store, history=length, candidates=candidates)
        else:
            load = stored_load(bundle, store, candidates=candidates)
        asked, parse = encoded_requests(load, count=requests, candidates=candidates)
        with _opened(bundle, stores, settings, parse=parse) as way:
            measured, speed = _measured(way, asked, users=len(load.users))
        with _opened(bundle, stores, settings, parse=parse, profile_to=folder) as way:
            way.run([asked[number % len(asked)] for number in range(_PROFILED)])
            operators = way.operators(_PROFILED)
    integer_op = sum(operator.flop for operator in operators if operator.integer)
    return Profile(
        model=bundle.manifest.model,
        model_version=bundle.manifest.version,
        candidates=candidates,
        history_events=float(np.mean(measured.history_events)),
        requests=requests,
        degraded=measured.degraded,
        core=chosen,
        cpu_share=measured.cpu_share,
        stages_us=dict(zip(STAGES, np.median(measured.us, axis=0).tolist(), strict=True)),
        total_p99_us=float(np.percentile(measured.us[:, STAGES.index("total")], 99)),
        operators=operators,
        flop=sum(operator.flop for operator in operators if not operator.integer),
        integer_op=integer_op,
        matmul_gflops=speed,
        integer_matmul_gops=integer_matmul_gops() if integer_op else 0.0,
    )


def _default_history(bundle: Bundle) -> int:
    declared = bundle.features.history
    return 0 if declared is None else min(DEFAULT_HISTORY, declared.max_events)


def _measured(way: _Way, asked: Sequence[bytes], *, users: int) -> tuple[_Measured, float]:
    """The requests, when every user was asked about before; and the speed of a large product, before or after."""
    way.run(asked[:users])
    time.sleep(_SETTLE_S)
    way.run(asked[:users])
    gc.collect()
    gc.freeze()  # as the server does
    try:
        before = matmul_gflops()
        return way.run(asked), max(before, matmul_gflops())
    finally:
        gc.unfreeze()


@contextmanager
def bound_to(core: int | None) -> Iterator[int | None]:
    """This thread, and those that it starts, on one core; a private Redis runs already, and is bound to none."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    chosen = max(before) if core is None else core
    if chosen not in before:
        raise InvalidInputError(f"core is {chosen}; allowed: {', '.join(map(str, sorted(before)))}")
    os.sched_setaffinity(0, {chosen})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class _Measured:
    us: Float64Array
    history_events: list[int]
    degraded: int
    cpu_share: float


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A ranker, and how a handler uses it; ``parse`` makes a message of bytes. ``graphs``: those that are profiled."""

    ranker: Ranker
    graphs: Mapping[str, Any]
    settings: Settings
    parse: Callable[[bytes], Any]

    def run(self, asked: Sequence[bytes]) -> _Measured:
        """The requests, one after another."""
        features = with_integer_ids(self.ranker.features)
        us = np.empty((len(asked), len(STAGES)))
        history_events, degraded = [], 0
        started_s, cpu_s = time.perf_counter(), time.thread_time()
        for number, data in enumerate(asked):
            timer = StageTimer()
            message = self.parse(data)
            request = rank_request(message, features, max_candidates=self.settings.max_candidates, timer=timer)
            result = self.ranker.rank(request, deadline=Deadline.after(_DEADLINE_S))
            rank_response(result, request).SerializeToString()
            timer.lap("convert")
            timer.finish()
            us[number] = [getattr(timer, stage) / 1e3 for stage in STAGES]
            history_events.append(result.history_events)
            degraded += result.user_degraded or result.items_degraded
        cpu_share = (time.thread_time() - cpu_s) / (time.perf_counter() - started_s)
        return _Measured(us, history_events, degraded, cpu_share)

    def operators(self, requests: int) -> list[Operator]:
        """Of both graphs, slowest first. They write their profiles, which they do once."""
        found = [
            operator
            for name in ("user", "rank")
            for operator in read_operators(Path(self.graphs[name].end_profiling()), name, requests=requests)
        ]
        return sorted(found, key=lambda operator: -operator.us)


@contextmanager
def _opened(
    bundle: Bundle,
    stores: Stores,
    settings: Settings,
    *,
    parse: Callable[[bytes], Any],
    profile_to: Path | None = None,
) -> Iterator[_Way]:
    """A ranker as the server has it; with a folder for profiles, its graphs are profiled."""
    graphs: dict[str, Any] = {}
    if profile_to is None:
        session = open_ranking_session(bundle)
    else:
        graphs = {name: load_graph(bundle, name, 1, profile=profile_to / name) for name in graph_names(bundle)}
        session = RankingSession(bundle, guard=TableGuard(bundle), **graphs)
    with ExitStack() as stack:
        shared = stack.enter_context(open_shared_parts(settings, stores))
        planned = PlannedRelease(name="profiled", ranking=bundle.path, retrieval=None)
        served = open_loaded_release(planned, Models(session, None), shared)
        stack.callback(served.close)
        assert served.ranker is not None
        yield _Way(ranker=served.ranker, graphs=graphs, settings=settings, parse=parse)
