"""Modules to ONNX files: standard operators and functions of these; tables and id maps in files beside the graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import recsys
from recsys.bundle import GraphInfo, TableInfo, TensorInfo
from recsys.export.graphs.modules import Example
from recsys.export.rewrites.functions import OPSET, bucket_interest, id_rows
from recsys.export.rewrites.simplify import simplify
from recsys.files import write_array


def write_graph(module: nn.Module, example: Example, path: Path, tables: dict[str, TableInfo]) -> GraphInfo:
    """Export one graph; its tables go to ``tables/``, unless another graph has put them there.

    Args:
        module: in evaluation mode; tables and id maps are buffers of a submodule ``twin``.
        example: its inputs and outputs.
        path: the ONNX file; ``tables/`` is beside it.
        tables: those written so far, by name; new ones are added.
    """
    shapes = tuple({d: torch.export.Dim.DYNAMIC for d in example.dynamic[n]} or None for n in example.inputs)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(example.inputs.values()),
            dynamo=True,
            input_names=list(example.inputs),
            output_names=list(example.outputs),
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    simplify(model)
    id_rows(model)
    bucket_interest(model)
    _name_dimensions(model, example.dynamic)
    _externalise(model, path.parent, tables)
    model.producer_name, model.producer_version = "recsys", recsys.__version__
    save_graph(model, path)
    return graph_info(model, path.name)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whose tables are files already."""
    path.write_bytes(model.SerializeToString())


def graph_info(model: onnx.ModelProto, file: str) -> GraphInfo:
    """A graph's signature, for the manifest."""
    return GraphInfo(
        file=file,
        inputs={value.name: _tensor_info(value) for value in model.graph.input},
        outputs={value.name: _tensor_info(value) for value in model.graph.output},
    )


def _externalise(model: onnx.ModelProto, folder: Path, tables: dict[str, TableInfo]) -> None:
    """Move tables and id maps to raw files, page-aligned by being files of their own; weights stay inside."""
    for tensor in model.graph.initializer:
        if not tensor.name.startswith(("twin.rows.", "twin.maps.")) or tensor.name.endswith((".weights", ".powers")):
            continue
        array = numpy_helper.to_array(tensor)
        name = table_name(tensor.name)
        file = f"tables/{name}.bin"
        if name not in tables:
            write_array(folder / file, array)
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
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in dynamic[value.name].items():
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
