"""A loaded model: a bundle's graphs in ONNX Runtime, run for one request.

Shapes use ``C`` candidates, ``S`` recent events, ``K`` values of a multi-valued feature, ``R`` rows and ``D`` width of
a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnxruntime as ort

from recsys.arrays import Float32Array
from recsys.bundle import Bundle, StateInfo, TensorInfo
from recsys.errors import BundleError, ModelError
from recsys.features.columns import Column
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import event_dtype
from recsys.operators import Operators
from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock, ModelLock
from recsys.serving.inference.graphs import check_manifest, check_same, inputs_of, load_graph, outputs_of
from recsys.serving.inference.pace import Pace, Work
from recsys.serving.inference.table_guard import TableGuard
from recsys.serving.telemetry.stage_timer import StageTimer

_OUTPUTS = ("logits", "scores")
_SUMS, _FRESH, _NEXT = "state.sums", "state.fresh", "state.next"
_SAMPLE_CANDIDATES = 2
_SAMPLE_EVENTS = 100

MAX_CHUNK = 2_000
"""Most candidates in one run of the rank graph: bounds the memory of a run, the time to notice a deadline, and the time
that others wait for the lock of the model."""

_LARGE_CHUNK = 1_000
"""From here on a run's memory is given back to the operating system after it."""

_SAMPLE_TIMEOUT_S = 600.0

_REQUEST_UNITS = 50
"""Work of the user graph and of what surrounds the model, in candidates."""

_UNIT_S = 15e-6
"""Guess of a candidate's share of the time, until it is measured: the reference model takes 4 to 17."""

_UNCONTENDED = FairLock(1 << 30)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of C candidates.

    Attributes:
        logits, scores: the scores in [0, 1], and before the sigmoid; float32, shape [C].
        next_sums: of a model with a state, the sums with the request's fresh events; float32, [R, D].
    """

    logits: Float32Array
    scores: Float32Array
    next_sums: Float32Array | None = None


class RankingSession:
    """A bundle that can score; made by :func:`open_ranking_session`. Safe to use from several threads.

    Attributes:
        state_version: of its users' states (``Manifest.state_version``).
        names: the texts of string ids, by embedding table, as far as the bundle has them.
        guard: asked before and after what reads the tables.
        pace: of its runs, a candidate being a unit.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        guard: TableGuard,
        user: ort.InferenceSession,
        rank: ort.InferenceSession,
        encode: ort.InferenceSession | None = None,
    ) -> None:
        self.bundle = bundle
        self.model = bundle.manifest.model
        self.version = bundle.manifest.version
        self.features = bundle.features
        self.state = bundle.manifest.state
        self.state_version = bundle.manifest.state_version
        self.names = {table: names.checked(guard.check) for table, names in bundle.names().items()}
        self.guard = guard
        self.pace = Pace(_UNIT_S)
        self._user = user
        self._rank = rank
        self._encode = encode
        self._user_outputs = [output.name for output in user.get_outputs()]
        self._shrink = ort.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def work(self, candidates: int) -> Work:
        """Expected work of a request for so many candidates."""
        chunks = -(-candidates // MAX_CHUNK)
        longest = _REQUEST_UNITS + candidates if chunks <= 1 else candidates / chunks
        return Work(self.pace.seconds(_REQUEST_UNITS + candidates), self.pace.seconds(longest))

    def score(
        self,
        request: EncodedRequest,
        *,
        deadline: Deadline,
        sums: Float32Array | None = None,
        fresh: Float32Array | None = None,
        model_lock: ModelLock = _UNCONTENDED,
        timer: StageTimer | None = None,
    ) -> Scores:
        """Score a request's candidates: the user graph once, then the rank graph over at most MAX_CHUNK at a time.

        Args:
            request: its history is all of it, or with ``sums`` at least what these do not cover and the newest events.
            deadline: looked at before each run of a graph.
            sums: of a model with a state: the sums of the events before, [R, D]; None for none.
            fresh: 1 for each event of the request's history that the sums do not cover, else 0; [S]. None for all.
            model_lock: held while a graph runs; released between chunks: a large request delays nobody for long.
            timer: counts how long each stage takes.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            OverloadedError: the deadline would pass before the model has run.
            ModelError: a logit is not finite, or the bundle's tables were changed; names the release.
        """
        answer = self.run(request, deadline=deadline, sums=sums, fresh=fresh, model_lock=model_lock, timer=timer)
        if not np.isfinite(answer.logits).all():
            bad = np.count_nonzero(~np.isfinite(answer.logits))
            raise ModelError(
                f"model {self.model!r} of {self.guard.label} gave no finite number for {bad} of {len(answer.logits)} "
                "candidates: a value of the request is beyond what it was trained on, or it is unfit; send other "
                "values, or go back to another release"
            )
        return answer

    def run(
        self,
        request: EncodedRequest,
        *,
        deadline: Deadline,
        sums: Float32Array | None = None,
        fresh: Float32Array | None = None,
        model_lock: ModelLock = _UNCONTENDED,
        timer: StageTimer | None = None,
    ) -> Scores:
        """As :meth:`score`, whatever the logits are."""
        try:
            answer = self._run(request, deadline, sums, fresh, model_lock, timer or StageTimer())
        except Exception:
            self.guard.check()  # what was read instead of a table fits nothing: that is the error to tell
            raise
        self.guard.check()
        return answer

    def _run(
        self,
        request: EncodedRequest,
        deadline: Deadline,
        sums: Float32Array | None,
        fresh: Float32Array | None,
        model_lock: ModelLock,
        timer: StageTimer,
    ) -> Scores:
        count = request.candidate_count
        parts = _chunks(count)
        units, left = (_REQUEST_UNITS + count, 0) if len(parts) == 1 else (_REQUEST_UNITS, count)
        with model_lock.acquire(deadline, pace=self.pace, units=units, more=left):
            timer.lap("wait")
            deadline.remaining_s()
            self.guard.check_before()
            side, next_sums = self._user_side(request, sums, fresh)
            timer.lap("user_graph")
            if len(parts) == 1:
                deadline.remaining_s()
                logits, scores = self._rank_side(request.candidates, side)
                timer.lap("rank_graph")
                return Scores(logits, scores, next_sums)
        # Copied out of each chunk's answer, which is memory of the arena: held, it could not be given back.
        whole = np.empty((2, count), dtype=np.float32)
        for part in parts:
            units = part.stop - part.start
            left -= units
            with model_lock.acquire(deadline, pace=self.pace, units=units, more=left):
                timer.lap("wait")
                deadline.remaining_s()
                columns = {name: column[part] for name, column in request.candidates.items()}
                whole[0, part], whole[1, part] = self._rank_side(columns, side)
                timer.lap("rank_graph")
        return Scores(whole[0], whole[1], next_sums)

    def user_side(
        self,
        request: EncodedRequest,
        *,
        deadline: Deadline,
        sums: Float32Array | None = None,
        fresh: Float32Array | None = None,
        model_lock: ModelLock = _UNCONTENDED,
    ) -> dict[str, Column]:
        """The tensors that the rank graph reads of a user, by name; arguments and errors as of :meth:`score`."""
        with model_lock.acquire(deadline), self.guard.reading():
            side, _ = self._user_side(request, sums, fresh)
            return {name: tensor.copy() for name, tensor in side.items()}

    def encode(self, history: Mapping[str, Column]) -> Float32Array:
        """The sums of some events, [R, D], from columns ``history.<name>``, [S]: only of a model with a state.

        Raises:
            ModelError: a sum is not finite, or the bundle's tables were changed; names the release.
        """
        assert self._encode is not None, "the model has no state"
        with self.guard.reading():
            sums: Float32Array = self._encode.run(None, dict(history))[0]
        if not np.isfinite(sums).all():
            raise ModelError(f"model {self.model!r} of {self.guard.label} gave sums of events that are not finite")
        return sums

    def _user_side(
        self, request: EncodedRequest, sums: Float32Array | None, fresh: Float32Array | None
    ) -> tuple[dict[str, Column], Float32Array | None]:
        inputs = request.user
        if self.state is not None:
            inputs = {
                **inputs,
                _SUMS: _no_sums(self.state) if sums is None else sums,
                _FRESH: np.ones(max(1, request.history_events), dtype=np.float32) if fresh is None else fresh,
            }
        side = dict(zip(self._user_outputs, self._user.run(self._user_outputs, inputs), strict=True))
        return side, side.pop(_NEXT, None)

    def _rank_side(self, candidates: Mapping[str, Column], side: Mapping[str, Column]) -> tuple[Column, Column]:
        count = len(next(iter(candidates.values())))
        options = self._shrink if count >= _LARGE_CHUNK else None
        logits, scores = self._rank.run(_OUTPUTS, {**candidates, **side}, options)
        return logits, scores


def _no_sums(state: StateInfo) -> Float32Array:
    return np.zeros((state.rows, state.width), dtype=np.float32)


def _chunks(count: int) -> list[slice]:
    """Slices of nearly equal length that cover ``count`` candidates."""
    pieces = -(-count // MAX_CHUNK)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def graph_names(bundle: Bundle) -> tuple[str, ...]:
    """The graphs of a ranking bundle, as :class:`RankingSession` takes them."""
    return ("user", "rank") if bundle.manifest.state is None else ("user", "rank", "encode")


def open_ranking_session(
    bundle: Bundle,
    *,
    intra_op_threads: int = 1,
    operators: Operators = "auto",
    release: str = "",
    low_priority: bool = False,
) -> RankingSession:
    """Load a bundle's graphs, check their signatures, and run them once.

    Args:
        bundle: whose they are.
        intra_op_threads: threads inside one run.
        operators: who computes the graphs' functions.
        release: name of the release that it belongs to, for messages.
        low_priority: leave the core to calls that are answered meanwhile.

    Raises:
        BundleError: a graph does not load or run, or its inputs or outputs are not what the
            manifest and the FeatureSet say; the message names the first that differs.
        ModelError: a table was changed or could not be read meanwhile.
    """
    guard = TableGuard(bundle, release=release)
    with guard.loading():
        graphs = {
            name: load_graph(bundle, name, intra_op_threads, operators=operators, low_priority=low_priority)
            for name in graph_names(bundle)
        }
        return _open(bundle, guard, graphs)


def _open(bundle: Bundle, guard: TableGuard, graphs: Mapping[str, ort.InferenceSession]) -> RankingSession:
    state = bundle.manifest.state
    for name, graph in graphs.items():
        check_manifest(bundle, name, graph)
    sample = _sample_request(bundle.features)
    user_outputs = outputs_of(graphs["user"])
    user_inputs = inputs_of(graphs["user"])
    if state is not None:
        _check_state(bundle, state, sample, graphs["encode"], user_inputs, user_outputs)
    _check_features(bundle, "user", sample.user, user_inputs)
    rank_inputs = inputs_of(graphs["rank"])
    for name in user_outputs:
        check_same(bundle, f"graph 'rank', input {name!r}", user_outputs[name], rank_inputs.pop(name, None))
    _check_features(bundle, "rank", sample.candidates, rank_inputs)
    for name in _OUTPUTS:
        expected = TensorInfo(dtype="float32", shape=("C",))
        check_same(bundle, f"graph 'rank', output {name!r}", expected, outputs_of(graphs["rank"]).get(name))
    session = RankingSession(bundle, guard=guard, **graphs)
    try:
        scores = session.run(sample, deadline=Deadline.after(_SAMPLE_TIMEOUT_S))
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        raise BundleError(f"{bundle.path}: the graphs do not run: {error}") from error
    if scores.scores.shape != (_SAMPLE_CANDIDATES,) or not np.isfinite(scores.logits).all():
        raise BundleError(
            f"{bundle.path}: {_SAMPLE_CANDIDATES} candidates gave scores {scores.scores.tolist()}, "
            f"logits {scores.logits.tolist()}; expected {_SAMPLE_CANDIDATES} finite numbers"
        )
    return session


def _sample_request(features: FeatureSet) -> EncodedRequest:
    """A request as the encoder makes it: what the graphs must accept."""
    length = 0 if features.history is None else min(features.history.recent, _SAMPLE_EVENTS)
    events = None if features.history is None else np.zeros(length, dtype=event_dtype(features))
    return encode_request(
        features,
        user_key=0,
        user_columns={},
        request_values={},
        events=events,
        item_keys=np.arange(_SAMPLE_CANDIDATES, dtype=np.int64),
        item_columns={},
    )


def _check_state(
    bundle: Bundle,
    state: StateInfo,
    sample: EncodedRequest,
    encode: ort.InferenceSession,
    user_inputs: dict[str, TensorInfo],
    user_outputs: dict[str, TensorInfo],
) -> None:
    """Check what a state goes through, and take it out of the user graph's inputs and outputs."""
    sums = TensorInfo(dtype="float32", shape=(state.rows, state.width))
    check_same(bundle, f"graph 'user', input {_SUMS!r}", sums, user_inputs.pop(_SUMS, None), source="the state")
    fresh = TensorInfo(dtype="float32", shape=("S",))
    check_same(bundle, f"graph 'user', input {_FRESH!r}", fresh, user_inputs.pop(_FRESH, None), source="the state")
    check_same(bundle, f"graph 'user', output {_NEXT!r}", sums, user_outputs.pop(_NEXT, None), source="the state")
    check_same(bundle, "graph 'encode', output 'sums'", sums, outputs_of(encode).get("sums"), source="the state")
    history = {name: column for name, column in sample.user.items() if name.startswith("history.")}
    _check_features(bundle, "encode", history, inputs_of(encode))


def _check_features(bundle: Bundle, graph: str, sample: Mapping[str, Column], found: Mapping[str, TensorInfo]) -> None:
    for name in [*sample, *found]:
        column = sample.get(name)
        expected = None
        if column is not None:
            length = "C" if graph == "rank" else "S" if name.startswith("history.") else 1
            expected = TensorInfo(dtype=str(column.dtype), shape=(length, *column.shape[1:]))
        check_same(bundle, f"graph {graph!r}, input {name!r}", expected, found.get(name))
