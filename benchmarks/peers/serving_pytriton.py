"""Triton through pytriton: a function over ONNX Runtime, whole requests without batching, asked by gRPC."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from serving_process import MODEL, ask_infer, each_request, free_port, infer_message, input_names, offer, open_graph
from tritonclient.grpc import service_pb2 as pb


def serve(graph: str, port: str, http_port: str) -> None:
    score = open_graph(graph)

    def infer(requests: list) -> list:
        return [{"scores": score(dict(request.data))} for request in requests]

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=int(port),
        http_address="127.0.0.1",
        http_port=int(http_port),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            MODEL,
            infer,
            inputs=[Tensor(name=name, dtype=np.int64, shape=(-1,) * rank) for name, rank in input_names(graph)],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


def main() -> None:
    graph, requests = sys.argv[1:3]
    port = free_port()
    offer(
        [sys.executable, __file__, "serve", graph, str(port), str(free_port())],
        port=port,
        wire="grpc",
        messages=[infer_message(pb, inputs) for inputs in each_request(Path(requests))],
        ask=ask_infer(pb, port),
        version=version("nvidia-pytriton"),
    )


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else main()
