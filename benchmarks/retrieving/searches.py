"""Searches of one operator, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from harness.common import Line, line, spread

DIM, K = 64, 100


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of searches, by the clock and of the thread alone; share of the items of exhaustive lists found."""

    wall_ms: list[float]
    cpu_ms: list[float]
    recall: float


def all_allowed() -> dict[str, np.ndarray]:
    """Inputs of the function where all is allowed."""
    from recsys.bundle import ALL_ALLOWED

    return {name.replace(".", "_"): value for name, value in ALL_ALLOWED.items()}


def one_operator(graph: bytes = b"", *, bits: bool = False) -> Any:
    """A session of a graph of one operator; default: :func:`operator_graph`."""
    import onnxruntime as ort

    from recsys.operators import use_operators

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_operators(options)
    return ort.InferenceSession(graph or operator_graph(bits=bits), options, providers=["CPUExecutionProvider"])


def operator_graph(*, bits: bool = False) -> bytes:
    """A graph of one TopItems, or TopItemsByBits, of all items."""
    from onnx import TensorProto, helper

    from recsys.export.retrieval.constants import constants
    from recsys.export.retrieval.top_items import top_items

    given = {"items": TensorProto.FLOAT, "codes": TensorProto.INT8, "scales": TensorProto.FLOAT}
    shapes = {"codes": [None] * 3} if bits else {}
    if bits:
        given |= {"codes": TensorProto.UINT8, "rotation": TensorProto.FLOAT, "reranked": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, shapes.get(name, [None, None])) for name, kind in given.items()]
    of_codes = len(inputs)
    inputs.append(helper.make_tensor_value_info("user", TensorProto.FLOAT, [None, 1]))
    inputs += [
        helper.make_tensor_value_info("allowed", TensorProto.INT64, []),
        helper.make_tensor_value_info("allowed_rows", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("allowed_mask", TensorProto.UINT8, [None]),
    ]
    names = [
        *given,
        "user",
        "no_rows",
        "no_additions",
        "no_added",
        "row_zero",
        *(each.name for each in inputs[of_codes + 1 :]),
        "k" if bits else "best",
    ]
    if bits:
        inputs.append(helper.make_tensor_value_info("k", TensorProto.INT64, []))
    outputs = [
        helper.make_tensor_value_info("rows", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None]),
    ]
    held = [each for each in constants() if each.name in set(names) - set(given)]
    if not bits:
        held.append(helper.make_tensor("best", TensorProto.INT64, [], [K]))
    node = helper.make_node("TopItemsByBits" if bits else "TopItems", names, ["rows", "scores"], domain="recsys")
    graph = helper.make_graph([node], "search", inputs, outputs, held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("recsys", 1)]
    model = helper.make_model(graph, functions=[top_items(bits=bits)], opset_imports=opsets, ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def times(call: Callable[[int], object], runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of so many calls, after two, by the clock and of this thread."""
    wall, cpu = [], []
    for run in range(-2, runs):
        began, began_cpu = time.perf_counter(), time.thread_time()
        call(run + 2)
        if run >= 0:
            wall.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - began_cpu) * 1e3)
    return wall, cpu


def times_line(figure: str, times: Times, about: str, on: dict[str, Any], target: float | None, **more: Any) -> Line:
    """A line of a figure's times."""
    return line(
        figure,
        median(times.wall_ms),
        "ms",
        higher_is_better=False,
        compared_with=about,
        on=on,
        target=target,
        spread=spread(times.wall_ms),
        cpu_ms=median(times.cpu_ms),
        recall=times.recall,
        **more,
    )
