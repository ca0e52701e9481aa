"""BentoML: a service of one worker over ONNX Runtime. It serves HTTP alone; arrays travel as JSON, its own way."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import bentoml
import numpy as np
from serving_process import each_request, free_port, offer, open_graph


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Reference:
    """Arrays in, scores out."""

    def __init__(self) -> None:
        self._score = open_graph(os.environ["PEER_GRAPH"])

    @bentoml.api(route="/score")
    def score(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._score({name: array.astype(np.int64) for name, array in inputs.items()})


def body_of(inputs: Mapping[str, np.ndarray]) -> bytes:
    return json.dumps({"inputs": {name: array.tolist() for name, array in inputs.items()}}).encode()


def main() -> None:
    graph, requests = sys.argv[1:3]
    port = free_port()
    head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "

    def message(inputs: Mapping[str, np.ndarray]) -> bytes:
        body = body_of(inputs)
        return f"{head}{len(body)}\r\n\r\n".encode() + body

    def ask(message: bytes) -> Sequence[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        connection.request("POST", "/score", message.partition(b"\r\n\r\n")[2], {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read()[:300]!r}")
        scores: Sequence[float] = json.loads(answer.read())
        return scores

    offer(
        [
            str(Path(sys.executable).parent / "bentoml"),
            *("serve", "serving_bentoml:Reference", "--working-dir", str(Path(__file__).parent)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        port=port,
        wire="http",
        messages=[message(inputs) for inputs in each_request(Path(requests))],
        ask=ask,
        version=version("bentoml"),
        environment={"PEER_GRAPH": graph, "BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": os.getcwd()},
    )


if __name__ == "__main__":
    main()
