"""A bundle: one trained model as a folder that any ONNX runtime can serve.

::

    my_model/
      manifest.json        format, FeatureSet, graphs, tables, metrics, certificate
      user.onnx            the user side, run once per request
      rank.onnx            the candidate side: user-side tensors and candidates in, scores out
      encode.onnx          of a model with a state: events in, sums of them out
      layers.npz           the network's weights as they were trained, to train on from
      resamples.npz        metrics of the test split under resampling, to compare bundles by
      tables/*.bin         embedding rows and id maps, raw little-endian, shared by both graphs

Graphs refer to the tables as ONNX external data, which runtimes memory-map: opening costs
milliseconds whatever the size, and processes on one machine share the pages. A bundle is written
under a temporary name, synced, and renamed; it is verified before use, so a half-written or
altered one is refused. ``docs/specs/bundle.md`` is the specification.

- ``manifest.py``: the fields of a manifest, and how ``manifest.json`` holds them;
- ``item_rows.py``: rows of items that it has not, and which of them count;
- ``index.py``: the fingerprint of the items that users' vectors were trained against;
- ``evaluation.py``: metrics by segment, and how sure they are;
- ``write.py``: a new bundle, atomically;
- ``verify.py``: the files compared with the manifest; ``verified.py``: those that a machine has verified already;
- ``open.py``: a bundle to serve, checked.

To add to the format: an optional field of ``Manifest`` that old manifests lack, its lines in ``manifest_to_dict`` and
``manifest_from_dict``, and the specification. A field that old readers must not ignore raises ``FORMAT_VERSION``.
"""

from recsys.bundle.evaluation import RESAMPLES, Evaluation, Measured, Resampled, SegmentMetrics
from recsys.bundle.item_rows import ITEM_OUTPUTS, LARGEST, ItemRows, added_inputs, no_added_items
from recsys.bundle.manifest import (
    ALL_ALLOWED,
    ALLOWS_LIST,
    ALLOWS_MASK,
    FORMAT_VERSION,
    HISTORY_OUTPUTS,
    LAYERS,
    MANIFEST,
    RETRIEVE_INPUTS,
    RETRIEVE_OUTPUTS,
    SEGMENT_OUTPUTS,
    SIMILAR_INPUTS,
    SIMILAR_OUTPUTS,
    Certificate,
    Compute,
    GraphInfo,
    IndexInfo,
    Manifest,
    Quantization,
    StateInfo,
    TableInfo,
    TensorInfo,
)
from recsys.bundle.open import Bundle, open_bundle, read_manifest
from recsys.bundle.verify import FileState
from recsys.bundle.write import bundle_writer

__all__ = [
    "ALLOWS_LIST",
    "ALLOWS_MASK",
    "ALL_ALLOWED",
    "FORMAT_VERSION",
    "HISTORY_OUTPUTS",
    "ITEM_OUTPUTS",
    "LARGEST",
    "LAYERS",
    "MANIFEST",
    "RESAMPLES",
    "RETRIEVE_INPUTS",
    "RETRIEVE_OUTPUTS",
    "SEGMENT_OUTPUTS",
    "SIMILAR_INPUTS",
    "SIMILAR_OUTPUTS",
    "Bundle",
    "Certificate",
    "Compute",
    "Evaluation",
    "FileState",
    "GraphInfo",
    "IndexInfo",
    "ItemRows",
    "Manifest",
    "Measured",
    "Quantization",
    "Resampled",
    "SegmentMetrics",
    "StateInfo",
    "TableInfo",
    "TensorInfo",
    "added_inputs",
    "bundle_writer",
    "no_added_items",
    "open_bundle",
    "read_manifest",
]
