"""A bundle: one trained model as a folder that any ONNX runtime can serve.

::

    my_model/
      manifest.json        what it is: format, FeatureSet, graphs, tables, metrics, certificate
      user.onnx            the user side, run once per request
      rank.onnx            the candidate side: user-side tensors and candidates in, scores out
      encode.onnx          of a model with a state: events in, sums of them out
      layers.npz           the network's weights as they were trained, to train on from
      tables/*.bin         embedding rows and id maps, raw little-endian, shared by both graphs

Graphs refer to the tables as ONNX external data, which runtimes memory-map: opening costs
milliseconds whatever the size, and processes on one machine share the pages. A bundle is written
under a temporary name, synced, and renamed; it is verified before use, so a half-written or
altered one is refused. ``docs/specs/bundle.md`` is the specification.

It is longer than most files here, so that what a manifest says is read beside how it is written and checked.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from recsys.errors import BundleError, InvalidInputError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.files import locked, sync

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LAYERS = "layers.npz"
"""The network's weights as they were trained, by name: what graphs hold is rearranged."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

Verify = Literal["full", "sizes"]
Kind = Literal["ranking", "retrieval"]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One input or output of a graph; dynamic dimensions are named (``C``, ``S``)."""

    dtype: str
    shape: tuple[int | str, ...]


RETRIEVE_INPUTS = {
    "user_id": TensorInfo(dtype="int64", shape=(1,)),
    "seen": TensorInfo(dtype="int64", shape=("N",)),
    "k": TensorInfo(dtype="int64", shape=()),
}
RETRIEVE_OUTPUTS = {
    "items": TensorInfo(dtype="int64", shape=("K",)),
    "scores": TensorInfo(dtype="float32", shape=("K",)),
    "known": TensorInfo(dtype="int64", shape=(1,)),
}
"""What goes into the graph of a retrieval bundle, and comes out: the same for all of them."""


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
        dtype, shape: of the file.
        quantized: how embedding rows are stored: ``none`` (float32), ``fp16``, ``int8`` or ``int4``.
        width: numbers of a row, where ``shape`` counts bytes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    quantized: str = "none"
    width: int | None = None


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
class Quantization:
    """What quantised rows do to the model's answers.

    Attributes:
        max_abs_logit_difference: the largest, from the same network with float32 rows, on the certificate's requests.
        float32_metrics: of the test split with float32 rows; the manifest's own are with the rows of the bundle.
    """

    max_abs_logit_difference: float
    float32_metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What matrix products in smaller numbers than float32 do to the model's answers.

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
    """What the model keeps of a user between requests: sums of events, which new events are added to.

    Attributes:
        rows, width: shape of the sums, float32.
        newest: events that the model also reads one by one, the newest; a request carries at least these.
    """

    rows: int
    width: int
    newest: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        model: the name a request asks for.
        kind: ``ranking``: has ``user`` and ``rank`` graphs; ``retrieval``: has ``retrieve``.
        feature_set: what the graphs' inputs mean.
        files: relative path -> (size in bytes, SHA-256) of every file but the manifest.
        metrics: on the test split, of the rows in the bundle.
        training: recipe, seed, commit, versions: whatever is needed to make it again.
        quantization: None if every table is float32.
        compute: None if every matrix product is of float32.
        state: None if the model reads a user's events anew for each request; otherwise the bundle also has a graph
            ``encode``.
    """

    model: str
    kind: Kind = "ranking"
    feature_set: FeatureSet
    graphs: Mapping[str, GraphInfo]
    tables: Mapping[str, TableInfo]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    certificate: Certificate
    training: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None
    compute: Compute | None = None
    state: StateInfo | None = None
    created_at: str = ""
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """16 hex digits that change when anything in the bundle does."""
        return _digest(_manifest_to_dict(self))[:16]


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle."""

    path: Path
    manifest: Manifest

    @property
    def features(self) -> FeatureSet:
        """What the graphs' inputs mean."""
        return self.manifest.feature_set

    def graph_path(self, name: str) -> Path:
        """The ONNX file of graph ``name``."""
        return self.path / self.manifest.graphs[name].file


@contextmanager
def bundle_writer(path: Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle atomically: on success ``path`` is complete, otherwise it is as it was before.

    Put graphs and tables under ``writer.folder`` and call ``writer.finish(manifest)`` once.

    Raises:
        InvalidInputError: ``path`` exists and ``overwrite`` is false, or is not a bundle.
        BundleError: ``finish`` was not called.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    if path.exists() and not overwrite:
        raise InvalidInputError(f"{path} exists; choose another folder or pass overwrite")
    if path.exists() and not (path / MANIFEST).is_file():
        raise InvalidInputError(f"{path} exists and is not a bundle; it is not overwritten")
    folder = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        with locked(folder):  # tells the next writer that this folder is no leftover
            writer = BundleWriter(folder)
            yield writer
            if not writer.finished:
                raise BundleError(f"{path}: the bundle was not finished")
            _replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class BundleWriter:
    """Collects a bundle's files in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = False
        (folder / "tables").mkdir()

    def finish(self, manifest: Manifest) -> Manifest:
        """Hash every file, write the manifest, and sync all to disk; returns the manifest as written."""
        files: dict[str, tuple[int, str]] = {}
        for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = file.relative_to(self.folder).as_posix()
            files[name] = (file.stat().st_size, _sha256(file))
            sync(file)
        manifest = dataclasses.replace(manifest, files=files)
        values = _manifest_to_dict(manifest)
        text = json.dumps({**values, "manifest_sha256": _digest(values)}, indent=2, sort_keys=True, allow_nan=False)
        (self.folder / MANIFEST).write_text(text + "\n")
        for file in (self.folder / MANIFEST, self.folder / "tables", self.folder):
            sync(file)
        self.finished = True
        return manifest


def open_bundle(path: Path, *, verify: Verify = "full", expected: FeatureSet | None = None) -> Bundle:
    """Open a bundle after checking that it is whole, unaltered and readable by this program.

    Args:
        path: the bundle's folder.
        verify: ``full`` hashes every file (about 1 GB/s); ``sizes`` only looks at presence and size.
        expected: refuse a bundle made for any other FeatureSet.

    Raises:
        BundleError: it is missing, incomplete, altered, of a newer format, or for another FeatureSet.
    """
    manifest = read_manifest(path)
    for name, (size_bytes, digest) in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing; export the bundle again")
        if file.stat().st_size != size_bytes:
            raise BundleError(
                f"{path}: {name} has {file.stat().st_size} bytes, the manifest says {size_bytes}; "
                "the copy is incomplete or altered"
            )
        if verify == "full" and _sha256(file) != digest:
            raise BundleError(f"{path}: {name} was altered: its SHA-256 is not the manifest's")
    if expected is not None and manifest.feature_set != expected:
        raise BundleError(
            f"{path}: made for FeatureSet {manifest.feature_set.name!r} "
            f"({manifest.feature_set.fingerprint()}), not {expected.name!r} ({expected.fingerprint()})"
        )
    return Bundle(path=path, manifest=manifest)


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest without looking at its other files.

    Raises:
        BundleError: there is none, it is not one, or it is of a newer format.
    """
    file = path / MANIFEST
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise BundleError(f"{path}: no {MANIFEST}: not a bundle; `recsys export` writes one") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{file}: not readable as JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{file}: no format_version: not a manifest")
    if version > FORMAT_VERSION:
        raise BundleError(f"{path}: bundle format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it")
    try:
        manifest = _manifest_from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{file}: malformed manifest: {error}") from error
    stated = values.get("feature_set_fingerprint")
    if stated != manifest.feature_set.fingerprint():
        raise BundleError(
            f"{file}: the FeatureSet was altered: its fingerprint is {manifest.feature_set.fingerprint()}, "
            f"the manifest says {stated}"
        )
    if unlisted := sorted({g.file for g in manifest.graphs.values()} - set(manifest.files)):
        raise BundleError(f"{file}: graph {unlisted[0]!r} is not in its list of files")
    if values.get("manifest_sha256") != _digest(values):
        raise BundleError(f"{file} was altered: its SHA-256 is not the one it states")
    return manifest


def remove_leftovers(path: Path) -> None:
    """Delete temporary folders that killed exports of ``path`` left behind; those being written are kept.

    If the kill fell between the two renames of :func:`_replace`, the old bundle is put back.
    """
    for old in path.parent.glob(f".{path.name}.old-*"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)
    for folder in path.parent.glob(f".{path.name}.tmp-*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, path: Path) -> None:
    """Put ``folder`` in the place of ``path``. A reader sees the old bundle, or the new one."""
    if not path.exists():
        os.rename(folder, path)
    elif not _exchange(folder, path):
        # Without an atomic exchange there is a moment with no bundle; the old one is deleted only after it.
        old = folder.with_name(folder.name.replace(".tmp-", ".old-"))
        os.rename(path, old)
        os.rename(folder, path)
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux, renameat2(2)); whether the system and file system could."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(swap(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_STORED_NAMES = {"certificate": "parity"}
"""Fields that manifests hold under another name."""


def _manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    values = {_STORED_NAMES.get(f.name, f.name): getattr(manifest, f.name) for f in dataclasses.fields(manifest)}
    values["format_version"] = FORMAT_VERSION
    values["feature_set"] = json.loads(manifest.feature_set.to_json())
    values["feature_set_fingerprint"] = manifest.feature_set.fingerprint()
    values["graphs"] = {name: dataclasses.asdict(g) for name, g in manifest.graphs.items()}
    values["tables"] = {name: _table_to_dict(t) for name, t in manifest.tables.items()}
    values["parity"] = dataclasses.asdict(manifest.certificate)
    for name, part in (
        ("quantization", manifest.quantization),
        ("compute", manifest.compute),
        ("state", manifest.state),
    ):
        del values[name]
        if part is not None:
            values[name] = dataclasses.asdict(part)
    values["files"] = {name: {"size_bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    return values


def _table_to_dict(table: TableInfo) -> dict[str, Any]:
    """Without what float32 does not need: a bundle's version is the digest of this, and old ones keep theirs."""
    values = dataclasses.asdict(table)
    return values if table.quantized != "none" else {name: values[name] for name in ("file", "dtype", "shape")}


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a manifest without its own digest."""
    kept = {name: value for name, value in values.items() if name != "manifest_sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest_from_dict(values: dict[str, Any]) -> Manifest:
    if values["kind"] not in get_args(Kind):
        raise ValueError(f"kind {values['kind']!r}: {nearest(values['kind'], get_args(Kind))}")
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
        training=values["training"],
        quantization=Quantization(**values["quantization"]) if "quantization" in values else None,
        compute=Compute(**values["compute"]) if "compute" in values else None,
        state=StateInfo(**values["state"]) if "state" in values else None,
        created_at=values["created_at"],
        files={name: (int(f["size_bytes"]), str(f["sha256"])) for name, f in values["files"].items()},
    )


def _tensor_info(values: dict[str, Any]) -> TensorInfo:
    return TensorInfo(dtype=values["dtype"], shape=tuple(values["shape"]))
