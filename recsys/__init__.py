"""recsys: an open recommender serving stack with a feature store.

Events stream into a feature store on Redis, models train on TorchRec, export to
ONNX bundles, and a torch-free gRPC server ranks candidates with histories read
from the store. ``docs/architecture.md`` shows the flow.
"""

__version__ = "0.1.0"
