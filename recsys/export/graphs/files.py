"""Modules to ONNX files: standard operators and functions of these; tables and id maps in files beside the graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import recsys
from recsys.bundle import GraphInfo, TableInfo, TensorInfo
from recsys.embeddings.dense_twin import DenseTwin
from recsys.export.graphs.modules import Example
from recsys.export.rewrites.functions import OPSET, bucket_interest, id_rows
from recsys.export.rewrites.simplify import replace_nodes, simplify
from recsys.files import write_array


class GraphModule(Protocol):
    """A module whose tables and id maps are its twin's."""

    twin: DenseTwin

    def eval(self) -> nn.Module:
        """Put it in evaluation mode."""
        ...


def write_graph(module: GraphModule, example: Example, path: Path, tables: dict[str, TableInfo]) -> GraphInfo:
    """Export one graph; its tables go to ``tables/``, unless another graph has put them there.

    Args:
        module: in evaluation mode.
        example: its inputs and outputs.
        path: the ONNX file; ``tables/`` is beside it.
        tables: those written so far, by name; new ones are added.
    """
    model = trace_graph(module, example)
    externalise(model, module.twin, path.parent, tables)
    model.producer_name, model.producer_version = "recsys", recsys.__version__
    save_graph(model, path)
    return graph_info(model, path.name)


def trace_graph(module: GraphModule, example: Example) -> onnx.ModelProto:
    """Trace a module. Tables and id maps are short tensors of random numbers, the same for the same module.

    Args:
        module: in evaluation mode.
        example: its inputs and outputs.
    """
    arguments = {_argument(names): names for names in example.stacks}
    shapes = tuple(
        {axis + (len(names) > 1): torch.export.Dim.DYNAMIC for axis in example.dynamic[names[0]]} or None
        for names in example.stacks
    )
    with _quiet(), module.twin.without_rows():
        program = torch.onnx.export(
            module.eval(),
            tuple(example.arguments),
            dynamo=True,
            input_names=list(arguments),
            output_names=list(example.outputs),
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _stack_inputs(model.graph, example)
    simplify(model)
    id_rows(model)
    bucket_interest(model)
    _name_dimensions(model, example.dynamic)
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    return model


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


def _argument(names: tuple[str, ...]) -> str:
    """The name of what a module takes for inputs: no input's name has two dots."""
    return names[0] if len(names) == 1 else f"stack..{names[0]}"


def _stack_inputs(graph: onnx.GraphProto, example: Example) -> None:
    """Make the graph take each input by itself, and put alike ones together: two nodes for any number of them."""
    taken = {value.name: value for value in graph.input}
    nodes: list[onnx.NodeProto] = []
    for names in example.stacks:
        if len(names) == 1:
            continue
        stack = taken.pop(_argument(names))
        kind, (_, *shape) = stack.type.tensor_type.elem_type, example.inputs[names[0]].shape
        for name in names:
            taken[name] = helper.make_tensor_value_info(name, kind, example.inputs[name].shape)
        whole = numpy_helper.from_array(np.array([len(names), -1, *shape], dtype=np.int64), f"{stack.name}..shape")
        graph.initializer.append(whole)
        nodes.append(helper.make_node("Concat", names, [f"{stack.name}..flat"], axis=0))
        nodes.append(helper.make_node("Reshape", [f"{stack.name}..flat", whole.name], [stack.name]))
    inputs = [taken[name] for name in example.inputs]
    del graph.input[:]
    graph.input.extend(inputs)
    replace_nodes(graph, [*nodes, *graph.node])


def externalise(model: onnx.ModelProto, twin: DenseTwin, folder: Path, tables: dict[str, TableInfo]) -> None:
    """Give the tensors of tables and id maps their rows in files; weights stay inside.

    Args:
        model: of :func:`trace_graph`.
        twin: of its module.
        folder: ``tables/`` is in it.
        tables: those written so far, by name; new ones are added.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for shelf in twin.shelves():
        if (tensor := tensors.get(f"twin.{shelf.buffer}")) is None:
            continue
        array, names = twin.get_buffer(shelf.buffer).numpy(), [f"{table}.{shelf.what}" for table in shelf.rows]
        file = f"tables/{names[0] if len(names) == 1 else shelf.name}.bin"
        if names[0] not in tables:
            write_array(folder / file, array)
            offset = 0
            for name, rows in zip(names, shelf.rows.values(), strict=True):
                info = TableInfo(file=file, dtype=str(array.dtype), shape=(rows, array.shape[1]), offset_bytes=offset)
                tables[name] = info
                offset += info.size_bytes
            assert offset == array.nbytes
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", "0"), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)


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
