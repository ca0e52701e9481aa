"""KServe's model server: a custom model over ONNX Runtime, one worker, asked by gRPC."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kserve import InferRequest, InferResponse, Model, ModelServer
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.utils.utils import get_predict_response
from serving_process import MODEL, ask_infer, each_request, free_port, infer_message, offer, open_graph


class Served(Model):
    """Arrays in, scores out."""

    def __init__(self, graph: str) -> None:
        super().__init__(MODEL)
        self._score = open_graph(graph)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        scores = self._score({given.name: given.as_numpy() for given in payload.inputs})
        return get_predict_response(payload, scores, self.name)


def serve(graph: str, port: str, http_port: str) -> None:
    ModelServer(
        workers=1,
        grpc_port=int(port),
        http_port=int(http_port),
        enable_latency_logging=False,
        access_log_format=None,
    ).start([Served(graph)])


def main() -> None:
    graph, requests = sys.argv[1:3]
    port = free_port()
    offer(
        [sys.executable, __file__, "serve", graph, str(port), str(free_port())],
        port=port,
        wire="grpc",
        messages=[infer_message(pb, inputs) for inputs in each_request(Path(requests))],
        ask=ask_infer(pb, port),
        version=version("kserve"),
    )


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else main()
