"""The manifest of a bundle: its fields, and how ``manifest.json`` holds them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from recsys.bundle.evaluation import Evaluation, evaluation_from_dict
from recsys.errors import nearest
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import layout_fingerprint, require_history
from recsys.features.number_transform import NumberTransform, transforms_from_dict, transforms_to_dict

FORMAT_VERSION = 2
"""The newest; tables that lie in one file are what version 1 lacks."""
MANIFEST = "manifest.json"
LAYERS = "layers.npz"
"""The network's weights as they were trained, by name: what graphs hold is rearranged."""

Kind = Literal["ranking", "retrieval"]
KnowsUsersBy = Literal["id", "history"]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One input or output of a graph; dynamic dimensions are named (``C``, ``S``)."""

    dtype: str
    shape: tuple[int | str, ...]


RETRIEVE_INPUTS = {
    "user_id": TensorInfo(dtype="int64", shape=(1,)),
    "seen": TensorInfo(dtype="int64", shape=("N",)),
    "k": TensorInfo(dtype="int64", shape=()),
    "allowed": TensorInfo(dtype="int64", shape=()),
    "allowed.rows": TensorInfo(dtype="int64", shape=("L",)),
    "allowed.mask": TensorInfo(dtype="uint8", shape=("B",)),
}
RETRIEVE_OUTPUTS = {
    "items": TensorInfo(dtype="int64", shape=("K",)),
    "scores": TensorInfo(dtype="float32", shape=("K",)),
    "known": TensorInfo(dtype="int64", shape=(1,)),
}
"""Inputs and outputs that the graph of every retrieval bundle has."""

ALLOWS_ALL, ALLOWS_LIST, ALLOWS_MASK = 0, 1, 2
"""Values of the input ``allowed``: which of the two other inputs says what may be found."""

ALL_ALLOWED: Mapping[str, npt.NDArray[Any]] = {
    "allowed": np.array(ALLOWS_ALL, dtype=np.int64),
    "allowed.rows": np.zeros(1, dtype=np.int64),
    "allowed.mask": np.zeros(1, dtype=np.uint8),
}
"""Inputs of ``retrieve`` where all items are allowed."""

HISTORY_OUTPUTS = {"history_known": TensorInfo(dtype="int64", shape=(1,))}
"""Further outputs of a graph that knows users by their history: how many events are of items that it knows."""

SEGMENT_OUTPUTS = {"segment": TensorInfo(dtype="int64", shape=(1,))}
"""Further output of a graph with popularity by segment, which reads a feature of users: 1 if its value has a list."""

SIMILAR_INPUTS = {
    "seeds": TensorInfo(dtype="int64", shape=("N",)),
    "seen": TensorInfo(dtype="int64", shape=("X",)),
    **{name: RETRIEVE_INPUTS[name] for name in ("k", "allowed", "allowed.rows", "allowed.mask")},
}
SIMILAR_OUTPUTS = {
    "items": TensorInfo(dtype="int64", shape=("K",)),
    "scores": TensorInfo(dtype="float32", shape=("K",)),
    "seeds_known": TensorInfo(dtype="int64", shape=("N",)),
}
"""Inputs and outputs of a graph ``similar``: keys of the seeds and of other items to leave out; items with the largest
mean of their cosines to the known seeds; with a graph ``item`` it takes :func:`added_inputs`, too."""


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """One graph: its file and its signature."""

    file: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """One external tensor: embedding rows or an id map.

    Attributes:
        dtype, shape: of what the table has in the file.
        offset_bytes: of the table in its file, where several lie one after another.
        quantized: how embedding rows are stored: ``none`` (float32), ``fp16``, ``int8`` or ``int4``.
        width: numbers of a row, where ``shape`` counts bytes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    quantized: str = "none"
    width: int | None = None
    offset_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the table."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self, folder: Path) -> npt.NDArray[Any]:
        """The whole table, of ``shape``, from a bundle's folder."""
        dtype, count = np.dtype(self.dtype).newbyteorder("<"), math.prod(self.shape)
        return np.fromfile(folder / self.file, dtype, count, offset=self.offset_bytes).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Certificate of an export: how far ONNX Runtime's answers are from the training framework's.

    Attributes:
        requests, candidates: how many were compared.
        max_abs_logit_difference: the largest difference of a logit seen.
        tolerance: the largest that is allowed; an export above it fails.
        compared: the two sides, with versions.
    """

    requests: int
    candidates: int
    max_abs_logit_difference: float
    tolerance: float
    compared: str


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """Certificate of a retrieval bundle's index.

    Attributes:
        coarse: codes that a search reads before the vectors: ``int8`` or ``none``, whose lists are exact by proof, or
            ``1bit``, ``2bit`` or ``4bit``, whose lists may lack items.
        users: real users, whose lists were compared with those of scoring all items.
        recall: share of the items of those that the index finds; None where no operators ran.
        effective_dimension: the participation ratio of the vectors' variances.
        scanned_bytes_per_item: bytes that a search of all items reads of each.
        reranked: of codes of bits, rows that a search scores by their vectors, by length of the list: that of the next
            longer one; of lists longer than all of these, every row.
        recalls: the recall of lists of these lengths, of the half of the users of whom it is lower; ``recall`` is that
            of the shortest.
        least_recall: what was allowed.
    """

    coarse: str
    users: int
    recall: float | None
    effective_dimension: float
    scanned_bytes_per_item: int
    reranked: Mapping[str, int] = field(default_factory=dict)
    recalls: Mapping[str, float] = field(default_factory=dict)
    least_recall: float | None = None

    @property
    def is_proven(self) -> bool:
        """True if its lists are those of scoring all by proof, and not to a share that was measured."""
        return not self.reranked


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Effect of quantised rows on the model's answers.

    Attributes:
        max_abs_logit_difference: the largest, from the same network with float32 rows, on the certificate's requests.
        float32_metrics: of the test split with float32 rows; the manifest's own are with the rows of the bundle.
    """

    max_abs_logit_difference: float
    float32_metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Effect of matrix products in smaller numbers than float32 on the model's answers.

    Measured between the float32 graphs, which the certificate is about, and those of the bundle, on test samples, each
    asked for among other candidates.

    Attributes:
        kind: of the numbers: ``int8``.
        requests, candidates: how many were compared.
        max_abs_logit_difference, mean_abs_logit_difference: of their logits.
        tolerance: the largest mean that is allowed; an export above it fails.
        metrics, float32_metrics: of these samples.
        own_operators: differences and metrics with recsys's own operators (``recsys.operators``); the others are with
            standard ones. None: the graphs have none of them, or they do not run where the bundle was made.
    """

    kind: str
    requests: int
    candidates: int
    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    tolerance: float
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    float32_metrics: Mapping[str, float | None] = field(default_factory=dict)
    own_operators: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class StateInfo:
    """The state that a model keeps of a user between requests: sums of events, which new events are added to.

    Attributes:
        rows, width: shape of the sums, float32.
        newest: events that the model also reads one by one, the newest; a request carries at least these.
    """

    rows: int
    width: int
    newest: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        model: the name a request asks for.
        kind: ``ranking``: has ``user`` and ``rank`` graphs; ``retrieval``: has ``retrieve``.
        feature_set: what the graphs' inputs mean.
        files: relative path -> (size in bytes, SHA-256) of every file but the manifest.
        metrics: on the test split, of the rows in the bundle.
        baselines: ``popularity`` and ``chance`` -> the same metrics of them; none where there is no test split.
        evaluation: details of the metrics: by segment, how sure they are, of which samples; None where there is no test
            split, and of older bundles.
        training: recipe, seed, commit, versions: whatever is needed to make it again.
        quantization: None if every table is float32.
        compute: None if every matrix product is of float32.
        state: None if the model reads a user's events anew for each request; otherwise the bundle also has a graph
            ``encode``.
        encode_sha256: of a model with a state: a digest of graph ``encode`` and of the tables and id maps that it
            reads, as far as it reads them. Empty: made by a version before.
        numbers: input of the graphs -> how the model reads that numeric feature; the graphs hold the same.
        knows_users_by: of a retrieval bundle: ``id`` (a vector for each user of the training data) or ``history`` (the
            vector is computed from the user's events when a request comes).
        index_fingerprint: of a retrieval bundle: the index that its users' vectors, or the graph that computes them,
            were trained against (``bundle/index.py``). Empty: made by a version before.
        index: of a retrieval bundle: its certificate. None: made by a version before, or by hand.
    """

    model: str
    kind: Kind = "ranking"
    feature_set: FeatureSet
    graphs: Mapping[str, GraphInfo]
    tables: Mapping[str, TableInfo]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    certificate: Certificate
    baselines: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None
    compute: Compute | None = None
    state: StateInfo | None = None
    encode_sha256: str = ""
    numbers: Mapping[str, NumberTransform] = field(default_factory=dict)
    knows_users_by: KnowsUsersBy = "id"
    index_fingerprint: str = ""
    index: IndexInfo | None = None
    created_at: str = ""
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """16 hex digits that change when anything in the bundle does."""
        return digest_of(manifest_to_dict(self))[:16]

    @property
    def item_inputs(self) -> tuple[str, ...]:
        """Inputs by which an item that is not in the bundle is known in a search; empty: it is not found."""
        return tuple(self.graphs["item"].inputs) if "item" in self.graphs else ()

    @property
    def state_version(self) -> str:
        """16 hex digits that change when what a user's state means does: the sums of the same events are other ones, or
        other events are in them. Bundles of one state version share their users' states. Of a bundle that has no digest
        of its ``encode`` graph, its version; empty without a state.
        """
        if self.state is None:
            return ""
        if not self.encode_sha256:
            return self.version
        history = require_history(self.feature_set)
        meant = {
            "encode_sha256": self.encode_sha256,
            "rows": self.state.rows,
            "width": self.state.width,
            "layout": layout_fingerprint(self.feature_set).hex(),
            # A state of fewer events than count by now looks like that of a short history.
            "recent": history.recent,
            "max_age_s": history.max_age_s,
        }
        return digest_of(meant)[:16]


_STORED_NAMES = {"certificate": "parity"}
"""Fields that manifests hold under another name."""


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """The values of ``manifest.json``, but for its own digest."""
    values = {_STORED_NAMES.get(f.name, f.name): getattr(manifest, f.name) for f in dataclasses.fields(manifest)}
    values["format_version"] = FORMAT_VERSION if any(t.offset_bytes for t in manifest.tables.values()) else 1
    values["feature_set"] = json.loads(manifest.feature_set.to_json())
    values["feature_set_fingerprint"] = manifest.feature_set.fingerprint()
    values["graphs"] = {name: dataclasses.asdict(g) for name, g in manifest.graphs.items()}
    values["tables"] = {name: _table_to_dict(t) for name, t in manifest.tables.items()}
    values["parity"] = dataclasses.asdict(manifest.certificate)
    for name, part in (
        ("quantization", manifest.quantization),
        ("compute", manifest.compute),
        ("state", manifest.state),
        ("evaluation", manifest.evaluation),
        ("index", manifest.index),
    ):
        del values[name]
        if part is not None:
            values[name] = dataclasses.asdict(part)
    if manifest.index is not None and manifest.index.is_proven:  # bundles of before keep their digest
        for name in ("reranked", "recalls", "least_recall"):
            del values["index"][name]
    if not manifest.encode_sha256:
        del values["encode_sha256"]
    if manifest.knows_users_by == "id":
        del values["knows_users_by"]
    if not manifest.index_fingerprint:
        del values["index_fingerprint"]
    del values["numbers"]
    if manifest.numbers:
        values["numbers"] = transforms_to_dict(manifest.numbers)
    if not manifest.baselines:  # those of earlier bundles keep their digest
        del values["baselines"]
    values["files"] = {name: {"size_bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    return values


def _table_to_dict(table: TableInfo) -> dict[str, Any]:
    """Without what the table does not need: a bundle's version is the digest of this, and old ones keep theirs."""
    values = dataclasses.asdict(table)
    unneeded = {*(("quantized", "width") if table.quantized == "none" else ())}
    unneeded |= {*(() if table.offset_bytes else ("offset_bytes",))}
    return {name: value for name, value in values.items() if name not in unneeded}


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a manifest without its own digest."""
    kept = {name: value for name, value in values.items() if name != "manifest_sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_from_dict(values: dict[str, Any]) -> Manifest:
    """The manifest with these values; KeyError, TypeError, ValueError or AttributeError if they are malformed."""
    if values["kind"] not in get_args(Kind):
        raise ValueError(f"kind {values['kind']!r}: {nearest(values['kind'], get_args(Kind))}")
    if (by := values.get("knows_users_by", "id")) not in get_args(KnowsUsersBy):
        raise ValueError(f"knows_users_by {by!r}: {nearest(by, get_args(KnowsUsersBy))}")
    return Manifest(
        model=str(values["model"]),
        kind=values["kind"],
        feature_set=FeatureSet.from_json(json.dumps(values["feature_set"])),
        graphs={
            name: GraphInfo(
                file=graph["file"],
                inputs={n: _tensor_info(t) for n, t in graph["inputs"].items()},
                outputs={n: _tensor_info(t) for n, t in graph["outputs"].items()},
            )
            for name, graph in values["graphs"].items()
        },
        tables={name: TableInfo(**{**t, "shape": tuple(t["shape"])}) for name, t in values["tables"].items()},
        metrics=values["metrics"],
        certificate=Certificate(**values["parity"]),
        baselines=values.get("baselines", {}),
        evaluation=evaluation_from_dict(values["evaluation"]) if "evaluation" in values else None,
        training=values["training"],
        quantization=Quantization(**values["quantization"]) if "quantization" in values else None,
        compute=Compute(**values["compute"]) if "compute" in values else None,
        state=StateInfo(**values["state"]) if "state" in values else None,
        encode_sha256=values.get("encode_sha256", ""),
        numbers=transforms_from_dict(values.get("numbers", {})),
        knows_users_by=by,
        index_fingerprint=str(values.get("index_fingerprint", "")),
        index=IndexInfo(**values["index"]) if "index" in values else None,
        created_at=values["created_at"],
        files={name: (int(f["size_bytes"]), str(f["sha256"])) for name, f in values["files"].items()},
    )


def _tensor_info(values: dict[str, Any]) -> TensorInfo:
    return TensorInfo(dtype=values["dtype"], shape=tuple(values["shape"]))
