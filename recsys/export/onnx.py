"""A trained ranking model to a bundle: two ONNX graphs that share memory-mapped tables.

``user``: raw user features and recent events -> user-side tensors, once per request.
``rank``: user-side tensors, raw candidate ids and features -> logits and scores.

Legend: ``C`` candidates, ``S`` recent events (1 or more; a missing event is padding), ``K`` values.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import recsys
from recsys.bundle import GraphInfo, Manifest, Parity, Quantization, TableInfo, TensorInfo, bundle_writer
from recsys.data.samples import Dataset, id_counts
from recsys.embeddings.dense_twin import DenseTwin, RawInputs
from recsys.embeddings.quantize import QuantizedTable
from recsys.embeddings.tables import ITEM
from recsys.embeddings.vectors import item_vectors, key_vectors, query_vectors, user_vectors
from recsys.export.parity import certificate_logits, certify
from recsys.export.quantized import rows_as_stored, stored_tables
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import Int64Array
from recsys.features.hot_ids import HOT_IDS, HotIds, write_hot_ids
from recsys.models.blocks import freeze_activations
from recsys.models.ranking import Net, make_net
from recsys.training.config import to_json
from recsys.training.evaluate import Metrics
from recsys.training.trained import TrainedModel, evaluate_run

OPSET = 21

HOT_IDS_KEPT = 100_000
"""Most users, and most items, that ``hot_ids.npz`` names."""


class UserGraph(nn.Module):
    """The ``user`` graph. Inputs in the order of :func:`user_inputs`, outputs the network's user side."""

    def __init__(self, features: FeatureSet, *, net: Net, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.names = list(user_inputs(features))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.names, tensors, strict=True))
        history = {name: t for name, t in named.items() if name.startswith("history.")}
        user = {name: t for name, t in named.items() if name not in history}
        user_1U = user_vectors(self.features, RawInputs(self.twin, user))
        if not history:
            return tuple(self.net.user_side(user_1U, user_1U[:0], user_1U[0, :0]))
        present_S = (history[f"history.{self.features.item_id.name}"] >= 0).to(torch.float32)
        keys_SD = key_vectors(self.features, RawInputs(self.twin, history))
        return tuple(self.net.user_side(user_1U, keys_SD, present_S))


class RankGraph(nn.Module):
    """The ``rank`` graph. Inputs: the user side, then :func:`rank_inputs`; outputs: logits, scores."""

    def __init__(self, features: FeatureSet, *, net: Net, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin = features, net, twin
        self.names = list(rank_inputs(features))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outputs = len(self.net.side_dimensions)
        named = zip(self.names, tensors[outputs:], strict=True)
        inputs = RawInputs(self.twin, {f"{ITEM}{name}": tensor for name, tensor in named})
        query_CD = query_vectors(self.features, inputs)
        logits_C = self.net.rank_side(tensors[:outputs], query_CD, item_vectors(self.features, inputs))
        return logits_C, torch.sigmoid(logits_C)


def export_bundle(
    trained: TrainedModel,
    dataset: Dataset,
    path: Path,
    *,
    name: str,
    metrics: Metrics | None = None,
    quantize: str | Mapping[str, str] = "none",
    overwrite: bool = False,
) -> Manifest:
    """Write a bundle with a parity certificate from real samples.

    Args:
        trained: the model; its process must hold all tables.
        dataset: with keys; the certificate compares answers on its test (else train) samples.
        path: the bundle's folder.
        name: the model name that requests ask for.
        metrics: of the model on the test split, recorded in the manifest. Quantised rows are evaluated here, so
            that it records theirs, and these beside them.
        quantize: how rows are stored: ``none``, ``fp16``, ``int8`` or ``int4``, or table -> one of them, ``*``
            standing for the tables not named.
        overwrite: replace an existing bundle.

    Raises:
        InvalidInputError: ``path`` exists; an unknown table or kind of row; rows that the kind cannot hold.
        BundleError: ONNX Runtime's answers differ from torch's by more than the tolerance; nothing
            is written.
    """
    features = trained.features
    trained.model.eval()
    net = build_frozen_net(trained)
    stored = stored_tables(trained, quantize)
    twin = DenseTwin(stored, trained.row_maps).eval()
    user, rank = UserGraph(features, net=net, twin=twin), RankGraph(features, net=net, twin=twin)
    with bundle_writer(path, overwrite=overwrite) as writer:
        tables: dict[str, TableInfo] = {}
        graphs = {
            "user": _write_graph(user, _user_example(features), writer.folder / "user.onnx", tables),
            "rank": _write_graph(rank, _rank_example(user, features), writer.folder / "rank.onnx", tables),
        }
        for table, rows in stored.items():
            if rows.kind != "none" and f"{table}.rows" in tables:
                described = replace(tables[f"{table}.rows"], quantized=rows.kind, width=rows.width)
                tables[f"{table}.rows"] = described
        write_hot_ids(writer.folder / HOT_IDS, hot_ids(dataset))
        parity, metrics, quantization = _measure(writer.folder, trained, dataset, stored, metrics)
        return writer.finish(
            Manifest(
                model=name,
                feature_set=features,
                graphs=graphs,
                tables=tables,
                metrics={} if metrics is None else asdict(metrics),
                parity=parity,
                quantization=quantization,
                training={
                    "recipe": trained.config.recipe,
                    "config": json.loads(to_json(trained.config)),
                    "data": trained.data_fingerprint,
                    "commit": _commit(),
                    "recsys": recsys.__version__,
                    "torch": str(torch.__version__),
                },
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


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
    metrics: Metrics | None,
) -> tuple[Parity, Metrics | None, Quantization | None]:
    """The certificate and the metrics of the rows in the bundle, and what they differ by from the model's own.

    The certificate compares ONNX Runtime with torch on the same, quantised, rows: it is about the graphs. How far
    those rows are from the trained ones is a figure of its own.
    """
    if all(table.kind == "none" for table in stored.values()):
        return certify(folder, trained, dataset), metrics, None
    own_logits = certificate_logits(trained, dataset)
    own_metrics = metrics or evaluate_run(trained, dataset, "test")
    with rows_as_stored(trained, stored):
        parity = certify(folder, trained, dataset)
        difference = float(np.abs(certificate_logits(trained, dataset) - own_logits).max())
        metrics = evaluate_run(trained, dataset, "test")
    own = {} if own_metrics is None else asdict(own_metrics)
    return parity, metrics, Quantization(max_abs_logit_difference=difference, float32_metrics=own)


def user_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``user`` graph in order: user id, user features, context, history columns."""
    inputs: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    return inputs | {f"history.{f.name}": f for f in features.event_features()}


def rank_inputs(features: FeatureSet) -> dict[str, Feature]:
    """Inputs of the ``rank`` graph after the user side, in order: item id, item features."""
    return {f.name: f for f in (features.item_id, *features.item)}


def build_frozen_net(trained: TrainedModel) -> Net:
    """A copy of the network for inference: fixed slopes and statistics, no dropout."""
    net = make_net(trained.model.module.net.widths, config=trained.config.model)
    net.load_state_dict(trained.model.module.net.state_dict())
    net.eval()
    freeze_activations(net)
    return net


def _user_example(features: FeatureSet) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example inputs, and the named dimensions. No dynamic dimension is 1: the exporter would fix it."""
    tensors, dynamic = {}, {}
    for name, feature in user_inputs(features).items():
        if name.startswith("history."):
            tensors[name], dynamic[name] = _example(feature, 7), {0: "S"}
        else:
            tensors[name], dynamic[name] = _example(feature, 1), {}
    return tensors, dynamic


def _rank_example(user: UserGraph, features: FeatureSet) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    with torch.no_grad():
        side = user(*_user_example(features)[0].values())
    dynamic = {name: dict(dims) for name, dims in user.net.side_dimensions.items()}
    tensors = dict(zip(dynamic, side, strict=True))
    for name, feature in rank_inputs(features).items():
        tensors[name], dynamic[name] = _example(feature, 5), {0: "C"}
    return tensors, {name: dynamic.get(name, {}) for name in tensors}


def _example(feature: Feature, length: int) -> Tensor:
    if isinstance(feature, Categorical):
        shape = (length,) if feature.max_values == 1 else (length, feature.max_values)
        return torch.arange(int(np.prod(shape)), dtype=torch.int64).view(shape)
    return torch.linspace(-1.0, 1.0, length)


def _write_graph(
    module: UserGraph | RankGraph,
    example: tuple[dict[str, Tensor], dict[str, dict[int, str]]],
    path: Path,
    tables: dict[str, TableInfo],
) -> GraphInfo:
    """Export one graph; its tables go to ``tables/``, unless the other graph has put them there."""
    tensors, dynamic = example
    outputs = list(module.net.side_dimensions) if isinstance(module, UserGraph) else ["logits", "scores"]
    shapes = tuple({d: torch.export.Dim.DYNAMIC for d in dims} or None for dims in dynamic.values())
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(tensors.values()),
            dynamo=True,
            input_names=list(tensors),
            output_names=outputs,
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _name_dimensions(model, {**module.net.side_dimensions, **dynamic})
    _externalise(model, path.parent, tables)
    model.producer_name, model.producer_version = "recsys", recsys.__version__
    path.write_bytes(model.SerializeToString())
    return GraphInfo(
        file=path.name,
        inputs={value.name: _tensor_info(value) for value in model.graph.input},
        outputs={value.name: _tensor_info(value) for value in model.graph.output},
    )


def _externalise(model: onnx.ModelProto, folder: Path, tables: dict[str, TableInfo]) -> None:
    """Move tables and id maps to raw files, page-aligned by being files of their own; weights stay inside."""
    for tensor in model.graph.initializer:
        if not tensor.name.startswith("twin.") or tensor.name.endswith((".weights", ".powers")):
            continue
        array = numpy_helper.to_array(tensor)
        name = table_name(tensor.name)
        file = f"tables/{name}.bin"
        if name not in tables:
            array.astype(array.dtype.newbyteorder("<"), copy=False).tofile(folder / file)
            tables[name] = TableInfo(file=file, dtype=str(array.dtype), shape=tuple(array.shape))
        assert tables[name].shape == tuple(array.shape), f"two tensors are named {name}"
        tensor.ClearField("raw_data")
        for field in ("float_data", "int64_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", file), ("offset", "0"), ("length", str(array.nbytes))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value


def table_name(initializer: str) -> str:
    """File name of a table: ``twin.rows.table_movie_id.rows`` -> ``movie_id.rows``.

    >>> table_name("twin.maps.table_movie_id.ids.slots_TW")
    'movie_id.ids'
    """
    if match := re.fullmatch(r"twin\.rows\.table_(\w+)\.rows", initializer):
        return f"{match[1]}.rows"
    if match := re.fullmatch(r"twin\.maps\.table_(\w+)\.ids\.slots_TW", initializer):
        return f"{match[1]}.ids"
    raise AssertionError(f"{initializer} is not a table")


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces and inferred shapes: most of the file, of use to nobody who serves it."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_dimensions(model: onnx.ModelProto, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Give dynamic dimensions the names of the specification instead of the exporter's."""
    named = {**dynamic, "logits": {0: "C"}, "scores": {0: "C"}}
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in named[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = name


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorInfo(dtype=str(dtype), shape=tuple(d.dim_param or d.dim_value for d in tensor.shape.dim))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own internals; errors still raise."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _commit() -> Any:
    """The source tree's commit, or None outside a checkout."""
    folder = Path(recsys.__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return asked.stdout.strip() or None
