"""Candidates per second of other model servers: the reference model as PyTorch exports it, on one core.

Each server of ``peers/serving_*.py`` answers eight callers with the model's DIN and the history's mean in place of SDIM
(``harness/flat_graph.py``): none of them keeps a state. The graph takes the user's inputs once, or repeated per
candidate. They have no feature store, so the request carries the history, as rows of tables: Redis and the id maps
are spared them.
The server is pinned to one core, the callers to another.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, cores, line, machine, main, parser, pinned, say, spread
from peers.process import missing, peer

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    import numpy as np

    from recsys.training.trained import TrainedModel

PEERS = {"kserve": "kserve", "mlserver": "mlserver", "pytriton": "pytriton", "bentoml": "bentoml"}
"""Option's name -> package that its Python imports."""

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIBRARIES = ("onnxruntime", "grpcio", "numpy")
WAYS = {"once": False, "repeated": True}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of the measurement."""

    rounds: int
    round_s: float
    requests: int = 64
    items: int = 1_000_000
    events: int = 50
    candidates: int = 200
    callers: int = 8


SIZES = {
    "full": Size(rounds=5, round_s=3.0),
    "quick": Size(rounds=2, round_s=1.0, requests=16),
    "tiny": Size(rounds=1, round_s=0.2, requests=4, items=1_000, events=5, candidates=20),
}


def add_options(options: argparse.ArgumentParser) -> None:
    """``--NAME-python`` for each server."""
    for name in PEERS:
        options.add_argument(f"--{name}-python", type=Path, metavar="PATH", help=f"a Python that has {name}")


def pythons_of(options: argparse.Namespace) -> dict[str, Path]:
    """The servers to compare with; of the others a message says why not."""
    found = {}
    for name, package in PEERS.items():
        python = getattr(options, f"{name}_python")
        if (reason := missing(python, package)) is None:
            found[name] = python
        else:
            say(reason)
    return found


def run(options: argparse.Namespace) -> Iterator[Line]:
    """A line for each server and way, and for bare ONNX Runtime."""
    size = SIZES[options.size]
    pythons = pythons_of(options)
    on = machine(LIBRARIES, **asdict(size))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        for name, rates in peer_candidates_per_s(pythons, Path(folder), size=size).items():
            bare = f"peer.ort_candidates_per_s.{name.rpartition('.')[2]}: bare ONNX Runtime on the same graph, one core"
            yield line(
                f"peer.{name}",
                median(rates.per_s),
                "candidates/s",
                higher_is_better=True,
                compared_with="the servers on the same graph" if name.startswith("ort") else bare,
                spread=spread(rates.per_s),
                version=rates.version,
                on=on,
            )


@dataclass(frozen=True)
class Rates:
    """Candidates per second in each round, and the version of what answered."""

    per_s: list[float]
    version: str


def peer_candidates_per_s(pythons: Mapping[str, Path], folder: Path, *, size: Size) -> dict[str, Rates]:
    """``NAME_candidates_per_s.once`` and ``.repeated`` of each server, and of ``ort``, which is bare ONNX Runtime.

    Args:
        pythons: server's name (of ``PEERS``) -> a Python that has it.
        folder: for the graphs and requests; 300 MB.

    Raises:
        RuntimeError: a server does not start or answer.
        AssertionError: a server's scores are not those of its graph.
    """
    import numpy as np
    import onnxruntime as ort
    from harness.flat_graph import export_flat
    from harness.reference import reference_model
    from harness.workers import grpc_load, http_load, worker
    from ranking.load import bare_flat

    trained = reference_model(long="mean", items=size.items)
    rates = {}
    first, last = cores()[0], cores()[-1]
    for way, repeated in WAYS.items():
        graph = export_flat(trained, folder / f"{way}.onnx", repeated=repeated)
        inputs = flat_requests(trained, size, repeated=repeated)
        np.savez(folder / f"{way}.npz", **inputs)  # type: ignore[arg-type]
        with pinned(first), worker(bare_flat, graph, one_by_one(inputs)) as calls:
            per_s = [len(calls(size.round_s)) / size.round_s * size.candidates for _ in range(size.rounds)]
        rates[f"ort_candidates_per_s.{way}"] = Rates(per_s, f"onnxruntime {ort.__version__}")
        for name, python in pythons.items():
            messages = folder / f"{name}_{way}.messages"
            with contextlib.ExitStack() as stack:
                with pinned(first):
                    arguments = (graph, folder / f"{way}.npz", messages)
                    _, about = stack.enter_context(peer(python, f"serving_{name}.py", *arguments))
                np.testing.assert_allclose(about["scores"], _scores(graph, inputs), atol=1e-5)
                address, sent = f"127.0.0.1:{about['port']}", pickle.loads(messages.read_bytes())
                load = (grpc_load, address, sent, size.callers, INFER)
                if about["wire"] == "http":
                    load = (http_load, address, sent, size.callers)
                with pinned(last):
                    calls = stack.enter_context(worker(*load))
                calls(size.round_s)
                per_s = [calls(size.round_s) * size.candidates for _ in range(size.rounds)]
            say(f"{name} {about['version']}, {way}: {median(per_s):,.0f} candidates/s")
            rates[f"{name}_candidates_per_s.{way}"] = Rates(per_s, f"{name} {about['version']}")
    return rates


def flat_requests(trained: TrainedModel, size: Size, *, repeated: bool) -> dict[str, np.ndarray]:
    """Random requests as inputs of the flat graph, along a new first axis."""
    import numpy as np
    from harness.flat_graph import flat_inputs, rows_of
    from harness.reference import USERS, category_of

    random = np.random.Generator(np.random.PCG64(0))
    users = random.integers(0, USERS, size=(size.requests, 1))
    events = random.integers(0, size.items, size=(size.requests, 1, size.events))
    items = random.integers(0, size.items, size=(size.requests, size.candidates))
    keys = [users, events, category_of(events), items, category_of(items)]
    inputs = {}
    for name, column in zip(flat_inputs(trained.features), keys, strict=True):
        rows = rows_of(trained, name, column)
        if repeated and rows.shape[1] == 1:  # the user's
            rows = np.repeat(rows, size.candidates, axis=1)
        inputs[name] = np.ascontiguousarray(rows)
    return inputs


def _session(graph: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _scores(graph: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of the first request."""
    found: np.ndarray = _session(graph).run(["scores"], {name: array[0] for name, array in inputs.items()})[0]
    return found


def one_by_one(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The inputs of each request, which stand along the first axis."""
    count = len(next(iter(inputs.values())))
    return [{name: array[number] for name, array in inputs.items()} for number in range(count)]


if __name__ == "__main__":
    options = parser(__doc__ or "")
    add_options(options)
    main("serving_peers", run, options)
