"""recsys: an open recommender serving stack with a feature store.

Events stream into a feature store on Redis, models train on TorchRec, export to
ONNX bundles, and a torch-free gRPC server ranks candidates with histories read
from the store. ``docs/understand/architecture.md`` shows the flow.

Importing it turns ONNX Runtime's telemetry off, in this process and those it starts.
"""

import os

__version__ = "0.1.0"

# Read when ONNX Runtime is loaded: from then on it keeps a device id and a growing database under HOME, and sends what
# is in it. Here, because every module of ours that loads it is below this one. It takes 1; 0 and no mean on to it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
