"""MLServer: a custom runtime over ONNX Runtime, in the server's own process (``parallel_workers`` 0), asked by gRPC."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import InferenceRequest, InferenceResponse
from serving_process import MODEL, ask_infer, each_request, free_port, infer_message, offer, open_graph


class Runtime(MLModel):
    """Arrays in, scores out."""

    async def load(self) -> bool:
        self._score = open_graph(os.environ["PEER_GRAPH"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {given.name: NumpyCodec.decode_input(given).reshape(given.shape) for given in payload.inputs}
        scores = NumpyCodec.encode_output("scores", self._score(inputs))
        return InferenceResponse(model_name=self.name, outputs=[scores])


def main() -> None:
    graph, requests = sys.argv[1:3]
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "grpc_max_message_length": 64 << 20,
    }
    Path("settings.json").write_text(json.dumps(settings))
    model = {"name": MODEL, "implementation": "serving_mlserver.Runtime"}
    Path("model-settings.json").write_text(json.dumps(model))
    offer(
        [str(Path(sys.executable).parent / "mlserver"), "start", "."],
        port=port,
        wire="grpc",
        messages=[infer_message(pb, inputs) for inputs in each_request(Path(requests))],
        ask=ask_infer(pb, port),
        version=version("mlserver"),
        environment={"PYTHONPATH": str(Path(__file__).parent), "PEER_GRAPH": graph},
    )


if __name__ == "__main__":
    main()
