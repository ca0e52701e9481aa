"""A trained ranking model to a bundle: ONNX graphs (``graphs.py``) that share memory-mapped tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import recsys
from recsys.arrays import Int64Array
from recsys.bundle import (
    LAYERS,
    RESAMPLES,
    Certificate,
    Compute,
    GraphInfo,
    Manifest,
    Measured,
    Quantization,
    StateInfo,
    TableInfo,
    bundle_writer,
)
from recsys.bundle.evaluation import resamples_bytes
from recsys.data.log.event_table import EventTable
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.quantize import QuantizedTable
from recsys.errors import InvalidInputError, nearest
from recsys.evaluation.evaluate import measure
from recsys.evaluation.predictions import Predictions
from recsys.evaluation.recorded import record
from recsys.export.certificate import certificate_logits, certify
from recsys.export.graphs.encode_digest import encode_digest
from recsys.export.graphs.files import write_graph
from recsys.export.graphs.modules import (
    EncodeGraph,
    RankGraph,
    UserGraph,
    build_frozen_net,
    encode_example,
    rank_example,
    state_of,
    user_example,
)
from recsys.export.int8 import use_int8
from recsys.export.quantized import rows_as_stored, stored_tables
from recsys.features.feature_set import Categorical
from recsys.features.hot_ids import HOT_IDS, HotIds, write_hot_ids
from recsys.features.names import NAMES_SUFFIX, write_sorted_names
from recsys.models.ranking.network import RankingNet, StatefulNet
from recsys.training.run.record import code_version
from recsys.training.settings import to_json
from recsys.training.trained import TrainedModel, predict_run

COMPUTE = ("float32", "int8")

HOT_IDS_KEPT = 100_000
"""Most users, and most items, that ``hot_ids.npz`` names."""


def export_bundle(
    trained: TrainedModel,
    dataset: Dataset,
    path: Path,
    *,
    name: str,
    predictions: Predictions | None = None,
    baselines: Mapping[str, Mapping[str, float | None]] | None = None,
    quantize: str | Mapping[str, str] = "none",
    compute: str = "float32",
    names: bool = True,
    overwrite: bool = False,
    created_at: str = "",
    begin: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write a bundle with a certificate from real samples.

    Args:
        trained: the model; its process must hold all tables.
        dataset: with keys; the certificate compares answers on its test (else train) samples.
        path: the bundle's folder.
        name: the model name that requests ask for.
        predictions: of the model on the test split; their metrics, of all and by segment, are recorded in the manifest.
            Quantised rows are evaluated here, so that it records theirs, and these beside them.
        baselines: popularity's and chance's on the test split, recorded beside them.
        quantize: how rows are stored: ``none``, ``fp16``, ``int8`` or ``int4``, or table -> one of them, ``*``
            standing for the tables not named.
        compute: numbers of the matrix products: ``float32``, or ``int8``, which is faster on processors with VNNI. The
            certificate is of float32 products; what int8 ones change is measured and recorded beside it.
        names: keep the texts of string ids in the bundle, but of user ids, which are never in it.
        overwrite: replace an existing bundle.
        created_at: RFC 3339; a bundle's version depends on it, and exports that give the same are of one version:
            give that of the run. Default: now.
        begin: called with what is done next, in words.

    Raises:
        InvalidInputError: ``path`` exists; an unknown table, kind of rows or ``compute``; rows no kind can hold.
        BundleError: ONNX Runtime's answers differ from torch's, or those of int8 products from those of float32, by
            more than allowed; nothing is written.
    """
    if compute not in COMPUTE:
        raise InvalidInputError(f"compute {compute!r}: {nearest(compute, COMPUTE)}")
    features = trained.features
    trained.model.eval()
    net = build_frozen_net(trained)
    stored = stored_tables(trained, quantize)
    twin = DenseTwin(stored, trained.row_maps, NumberInputs(features, trained.numbers)).eval()
    with bundle_writer(path, overwrite=overwrite) as writer:
        tables: dict[str, TableInfo] = {}
        user = UserGraph(features, net=net, twin=twin)
        graphs = _write_graphs(user, writer.folder, tables, begin)
        encode_sha256 = _encode_sha256(user, begin)
        for table, rows in stored.items():
            if rows.kind != "none" and f"{table}.rows" in tables:
                described = replace(tables[f"{table}.rows"], quantized=rows.kind, width=rows.width)
                tables[f"{table}.rows"] = described
        begin("comparing the graphs' answers with the model's")
        write_hot_ids(writer.folder / HOT_IDS, hot_ids(dataset))
        _write_layers(writer.folder / LAYERS, trained)
        if names:
            _write_names(writer.folder / "tables", dataset.table)
        certificate, measured, quantization = _measure(writer.folder, trained, dataset, stored, predictions)
        if measured is not None:
            (writer.folder / RESAMPLES).write_bytes(resamples_bytes(measured.resamples))
        changed: Compute | None = None
        if compute == "int8":
            begin("quantising products, and measuring what that changes")
            in_int8, changed = use_int8(writer.folder, dataset)
            graphs |= in_int8
        begin("hashing the files, and syncing them to disk")
        return writer.finish(
            Manifest(
                model=name,
                feature_set=features,
                graphs=graphs,
                tables=tables,
                metrics={} if measured is None else measured.metrics,
                evaluation=None if measured is None else measured.evaluation,
                certificate=certificate,
                baselines=baselines or {},
                quantization=quantization,
                compute=changed,
                state=_state_info(net),
                encode_sha256=encode_sha256,
                numbers=trained.numbers,
                training={
                    "recipe": trained.config.recipe,
                    "config": json.loads(to_json(trained.config)),
                    "data": trained.data_fingerprint,
                    "commit": code_version()[0],
                    "recsys": recsys.__version__,
                    "torch": str(torch.__version__),
                },
                created_at=created_at or datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def _write_graphs(
    user: UserGraph, folder: Path, tables: dict[str, TableInfo], begin: Callable[[str], None]
) -> dict[str, GraphInfo]:
    """The graphs of a bundle; their tables are added to ``tables``."""
    rank = RankGraph(user.features, net=user.net, twin=user.twin)
    begin("tracing the graph of the user's side")
    graphs = {"user": write_graph(user, user_example(user), folder / "user.onnx", tables)}
    begin("tracing the graph of the candidates")
    graphs["rank"] = write_graph(rank, rank_example(rank, user), folder / "rank.onnx", tables)
    if (encode := _encode_graph(user)) is not None:
        begin("tracing the graph of long histories")
        graphs["encode"] = write_graph(encode, encode_example(encode), folder / "encode.onnx", tables)
    return graphs


def _encode_graph(user: UserGraph) -> EncodeGraph | None:
    if not state_of(user.net):
        return None
    assert isinstance(user.net, StatefulNet)
    return EncodeGraph(user.features, net=user.net, twin=user.twin)


def _encode_sha256(user: UserGraph, begin: Callable[[str], None]) -> str:
    if (encode := _encode_graph(user)) is None:
        return ""
    begin("hashing what users' states depend on")
    return encode_digest(encode)


def _state_info(net: RankingNet) -> StateInfo | None:
    if (state := state_of(net)) is None:
        return None
    assert isinstance(net, StatefulNet)
    rows, width = state
    return StateInfo(rows=rows, width=width, newest=net.newest)


def _write_layers(file: Path, trained: TrainedModel) -> None:
    layers = {name: tensor.cpu().numpy() for name, tensor in trained.model.module.net.state_dict().items()}
    with file.open("wb") as stream:
        np.savez(stream, **layers)


def _write_names(folder: Path, table: EventTable) -> None:
    for name, names in table.names.items():
        # User ids are personal data, and no answer of a server has any.
        if name in table.features.tables() and name != table.features.user_id.table:
            write_sorted_names(folder / f"{name}{NAMES_SUFFIX}", names.keys_R, names.begins, names.utf8)


def hot_ids(dataset: Dataset) -> HotIds:
    """The ids that training looked up most often."""
    counted = id_counts(dataset, dataset.split("train"))

    def hottest(feature: Categorical) -> Int64Array:
        ids, counts = counted[feature.table]
        return ids[np.lexsort((ids, -counts))[:HOT_IDS_KEPT]]

    features = dataset.table.features
    return HotIds(users=hottest(features.user_id), items=hottest(features.item_id))


def _measure(
    folder: Path,
    trained: TrainedModel,
    dataset: Dataset,
    stored: Mapping[str, QuantizedTable],
    predictions: Predictions | None,
) -> tuple[Certificate, Measured | None, Quantization | None]:
    """The certificate and the metrics of the rows in the bundle, and what they differ by from the model's own.

    The certificate compares ONNX Runtime with torch on the same, quantised, rows: it is about the graphs. How far
    those rows are from the trained ones is a figure of its own.
    """
    if all(table.kind == "none" for table in stored.values()):
        return certify(folder, trained, dataset), None if predictions is None else record(predictions), None
    own_logits = certificate_logits(trained, dataset)
    own = predictions or predict_run(trained, dataset, "test")
    with rows_as_stored(trained, stored):
        certificate = certify(folder, trained, dataset)
        difference = float(np.abs(certificate_logits(trained, dataset) - own_logits).max())
        predictions = predict_run(trained, dataset, "test")
    own_metrics = {} if own is None else asdict(measure(own))
    quantization = Quantization(max_abs_logit_difference=difference, float32_metrics=own_metrics)
    return certificate, None if predictions is None else record(predictions), quantization
