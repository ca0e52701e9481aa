"""A loaded model: a bundle's two graphs in ONNX Runtime, run for one request.

Shapes use ``C`` candidates, ``S`` recent events, ``K`` values of a multi-valued feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from recsys.bundle import Bundle, TensorInfo
from recsys.errors import BundleError
from recsys.features.columns import Column
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.feature_set import FeatureSet
from recsys.features.history import event_dtype
from recsys.serving.admission import Deadline

Float32Array = npt.NDArray[np.float32]

_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}
_OUTPUTS = ("logits", "scores")
_SAMPLE_CANDIDATES = 2

MAX_CHUNK = 2_000
"""Most candidates in one run of the rank graph: bounds the memory of a run, and the time to notice a deadline."""

_LARGE_CHUNK = 1_000
"""From here on a run's memory is given back to the operating system after it."""

_SAMPLE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about C candidates: ``logits``, and ``scores`` in [0, 1]; float32, shape [C]."""

    logits: Float32Array
    scores: Float32Array


class Session:
    """A bundle that can score; made by :func:`open_session`. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, *, user: ort.InferenceSession, rank: ort.InferenceSession) -> None:
        self.model = bundle.manifest.model
        self.version = bundle.manifest.version
        self.features = bundle.features
        self._user = user
        self._rank = rank
        self._user_outputs = [output.name for output in user.get_outputs()]
        self._shrink = ort.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def score(self, request: EncodedRequest, *, deadline: Deadline) -> Scores:
        """Score a request's candidates: the user graph once, then the rank graph over at most MAX_CHUNK at a time.

        Raises:
            TimeoutError: the deadline has passed; it is looked at before each run of the rank graph.
        """
        user_side = dict(zip(self._user_outputs, self._user.run(self._user_outputs, request.user), strict=True))
        count = len(next(iter(request.candidates.values())))
        if count <= MAX_CHUNK:
            deadline.remaining_s()
            return self._score_chunk(request.candidates, user_side, count)
        # Copied out of each chunk's answer, which is memory of the arena: held, it could not be given back.
        whole = Scores(logits=np.empty(count, dtype=np.float32), scores=np.empty(count, dtype=np.float32))
        for part in _chunks(count):
            deadline.remaining_s()
            columns = {name: column[part] for name, column in request.candidates.items()}
            chunk = self._score_chunk(columns, user_side, part.stop - part.start)
            whole.logits[part], whole.scores[part] = chunk.logits, chunk.scores
        return whole

    def _score_chunk(self, candidates: Mapping[str, Column], user_side: Mapping[str, Column], count: int) -> Scores:
        options = self._shrink if count >= _LARGE_CHUNK else None
        logits, scores = self._rank.run(_OUTPUTS, {**candidates, **user_side}, options)
        return Scores(logits=logits, scores=scores)


def _chunks(count: int) -> Iterator[slice]:
    """Slices of nearly equal length that cover ``count`` candidates."""
    pieces = -(-count // MAX_CHUNK)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    return (slice(start, stop) for start, stop in pairwise(bounds))


def open_session(bundle: Bundle, *, intra_op_threads: int = 1) -> Session:
    """Load a bundle's graphs, check their signatures, and run them once.

    Raises:
        BundleError: a graph does not load or run, or its inputs or outputs are not what the
            manifest and the FeatureSet say; the message names the first that differs.
    """
    graphs = {name: _load(bundle, name, intra_op_threads) for name in ("user", "rank")}
    for name, graph in graphs.items():
        _check_manifest(bundle, name, graph)
    sample = _sample_request(bundle.features)
    user_outputs = _outputs(graphs["user"])
    _check_features(bundle, "user", sample.user, _inputs(graphs["user"]))
    rank_inputs = _inputs(graphs["rank"])
    for name in user_outputs:
        _check_same(bundle, f"graph 'rank', input {name!r}", user_outputs[name], rank_inputs.pop(name, None))
    _check_features(bundle, "rank", sample.candidates, rank_inputs)
    for name in _OUTPUTS:
        expected = TensorInfo(dtype="float32", shape=("C",))
        _check_same(bundle, f"graph 'rank', output {name!r}", expected, _outputs(graphs["rank"]).get(name))
    session = Session(bundle, user=graphs["user"], rank=graphs["rank"])
    try:
        scores = session.score(sample, deadline=Deadline.after(_SAMPLE_TIMEOUT_S))
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        raise BundleError(f"{bundle.path}: the graphs do not run: {error}") from error
    if scores.scores.shape != (_SAMPLE_CANDIDATES,) or not np.isfinite(scores.logits).all():
        raise BundleError(
            f"{bundle.path}: {_SAMPLE_CANDIDATES} candidates gave scores {scores.scores.tolist()}, "
            f"logits {scores.logits.tolist()}; expected {_SAMPLE_CANDIDATES} finite numbers"
        )
    return session


def _load(bundle: Bundle, name: str, intra_op_threads: int) -> ort.InferenceSession:
    if name not in bundle.manifest.graphs:
        raise BundleError(f"{bundle.path}: no graph {name!r}; a ranking bundle has 'user' and 'rank'")
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without the arena glibc returns each run's memory and faults it in again: measured on a DIN of 50 events and
    # 200 candidates, 1,400 page faults and 6.4 ms a call instead of none and 3.4 ms. What a large request makes the
    # arena grow to is given back by _shrink. Memory patterns need fixed shapes.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(bundle.graph_path(name), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        hint = ""
        if "bad_alloc" in str(error):  # ONNX Runtime's mapping is private and writable, which Linux counts as memory
            hint = "; Linux maps a table larger than all memory and swap only with vm.overcommit_memory=1"
        raise BundleError(f"{bundle.path}: graph {name!r} does not load: {error}{hint}") from error


def _sample_request(features: FeatureSet) -> EncodedRequest:
    """A request as the encoder makes it: what the graphs must accept."""
    events = None if features.history is None else np.zeros(features.history.recent, dtype=event_dtype(features))
    return encode_request(
        features,
        user_key=0,
        user_columns={},
        request_values={},
        events=events,
        item_keys=np.arange(_SAMPLE_CANDIDATES, dtype=np.int64),
        item_columns={},
    )


def _inputs(graph: ort.InferenceSession) -> dict[str, TensorInfo]:
    return {i.name: _info(i) for i in graph.get_inputs()}


def _outputs(graph: ort.InferenceSession) -> dict[str, TensorInfo]:
    return {o.name: _info(o) for o in graph.get_outputs()}


def _info(node: ort.NodeArg) -> TensorInfo:
    return TensorInfo(dtype=_DTYPES.get(node.type, node.type), shape=tuple(node.shape))


def _check_manifest(bundle: Bundle, name: str, graph: ort.InferenceSession) -> None:
    declared = bundle.manifest.graphs[name]
    sides = (("input", declared.inputs, _inputs(graph)), ("output", declared.outputs, _outputs(graph)))
    for side, expected, found in sides:
        for tensor in [*expected, *found]:
            where = f"graph {name!r}, {side} {tensor!r}"
            _check_same(bundle, where, expected.get(tensor), found.get(tensor), source="the manifest")


def _check_features(bundle: Bundle, graph: str, sample: Mapping[str, Column], found: Mapping[str, TensorInfo]) -> None:
    for name in [*sample, *found]:
        column = sample.get(name)
        expected = None
        if column is not None:
            length = "C" if graph == "rank" else "S" if name.startswith("history.") else 1
            expected = TensorInfo(dtype=str(column.dtype), shape=(length, *column.shape[1:]))
        _check_same(bundle, f"graph {graph!r}, input {name!r}", expected, found.get(name))


def _check_same(
    bundle: Bundle,
    where: str,
    expected: TensorInfo | None,
    found: TensorInfo | None,
    *,
    source: str = "the FeatureSet",
) -> None:
    if expected is None or found is None or expected.dtype != found.dtype or not _shapes_fit(expected, found):
        raise BundleError(f"{bundle.path}: {where}: the graph has {_text(found)}, {source} says {_text(expected)}")


def _shapes_fit(expected: TensorInfo, found: TensorInfo) -> bool:
    """Same rank, equal fixed sizes; a dynamic size is allowed anywhere but must be where one is expected."""
    return len(expected.shape) == len(found.shape) and all(
        not isinstance(have, int) or have == want for want, have in zip(expected.shape, found.shape, strict=True)
    )


def _text(info: TensorInfo | None) -> str:
    return "nothing" if info is None else f"{info.dtype} {list(info.shape)}"
