"""Parts that scripts of model servers share. Each runs in its own Python, which has numpy, onnxruntime and that server.

A script is called with the graph, a file of requests (``.npz``: an array per input, its first axis the requests) and
the file for the messages it makes of them; it starts its server as a process, waits for the first answer, tells it in
one JSON line, and ends the server when it is ended itself. A server's own process gets ``serve``, the graph and a port.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

Arrays = dict[str, np.ndarray]
Score = Callable[[Mapping[str, np.ndarray]], np.ndarray]

MODEL = "reference"
_START_S = 120.0
_PR_SET_PDEATHSIG = 1


def open_graph(path: str) -> Score:
    """The graph in ONNX Runtime, one thread: inputs by name to scores, [C]."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["scores"], dict(inputs))[0]


def input_names(path: str) -> list[tuple[str, int]]:
    """Names and ranks of a graph's inputs."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [(given.name, len(given.shape)) for given in session.get_inputs()]


def each_request(requests: Path) -> Iterator[Arrays]:
    """The requests, one after another."""
    with np.load(requests) as file:
        arrays = {name: file[name] for name in file.files}
    for number in range(len(next(iter(arrays.values())))):
        yield {name: array[number] for name, array in arrays.items()}


def offer(
    command: Sequence[str],
    *,
    port: int,
    wire: str,
    messages: Sequence[bytes],
    ask: Callable[[bytes], Sequence[float]],
    version: str,
    environment: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run the server until this process is told to end; see the module's docstring.

    Args:
        command: the server's.
        wire: what carries the messages, ``grpc`` or ``http``.
        messages: the requests as bytes.
        ask: sends one to the server; its scores. Raises while it does not answer.
        environment: what the server's has beyond this process's.
    """
    tell = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for the benchmark
    Path(sys.argv[3]).write_bytes(pickle.dumps(list(messages)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    log = Path("server.log").open("wb")
    process = subprocess.Popen(
        list(command),
        env={**os.environ, **one_thread, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    try:
        scores = _first_answer(process, lambda: ask(messages[0]))
        facts = {"port": port, "wire": wire, "version": version, "scores": [float(score) for score in scores]}
        print(json.dumps(facts), file=tell, flush=True)
        sys.stdin.read()
    finally:
        _end(process)
    sys.exit(0)


def _first_answer(process: subprocess.Popen[bytes], ask: Callable[[], Sequence[float]]) -> Sequence[float]:
    give_up_s = time.monotonic() + _START_S
    while True:
        try:
            return ask()
        except Exception as error:  # each library has its own, and a server that starts refuses in many ways
            if process.poll() is None and time.monotonic() < give_up_s:
                time.sleep(0.2)
                continue
            print(Path("server.log").read_text(errors="replace")[-3000:], file=sys.stderr)
            raise RuntimeError(f"no answer: {error}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and its children; some start several."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def infer_message(pb: Any, inputs: Mapping[str, np.ndarray]) -> bytes:
    """A ``ModelInferRequest`` of the Open Inference Protocol, tensors as bytes; ``pb``: the server's generated code."""
    request = pb.ModelInferRequest(model_name=MODEL)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype="INT64", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    found: bytes = request.SerializeToString()
    return found


def ask_infer(pb: Any, port: int) -> Callable[[bytes], Sequence[float]]:
    """Sends such a message, and reads the one output."""
    import grpc

    def ask(message: bytes) -> Sequence[float]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
            )(message, timeout=5.0)
        return np.frombuffer(answer.raw_output_contents[0], dtype=np.float32).tolist()

    return ask
