"""Parts that benchmarks share: command line, measuring processes, servers, reference models. None is run by itself."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some load ONNX Runtime before recsys, or in processes that have no recsys
