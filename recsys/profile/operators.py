"""Time by operator from ONNX Runtime's profiler, and the arithmetic of a graph's matrix products."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "GemmFloat8"}
_INTEGER_PRODUCTS = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"}
_OUTLIERS = 0.05
_KERNEL = "_kernel_time"

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One node of a graph, per request.

    Attributes:
        graph, node, kind: the graph's name, the node's, and which operator it is.
        inputs, output: shapes of the last run.
        us: time per request; without the slowest twentieth of the runs, which something else disturbed.
        flop: operations of a matrix product (a product and a sum are two), per request; 0 for all else.
        integer: they are of int8.
    """

    graph: str
    node: str
    kind: str
    inputs: tuple[Shape, ...]
    output: Shape
    us: float
    flop: int = 0
    integer: bool = False

    @property
    def gflops(self) -> float:
        """1e9 operations per second; 0 for what is no matrix product."""
        return self.flop / self.us / 1e3 if self.us else 0.0


def read_operators(profile: Path, graph: str, *, requests: int) -> list[Operator]:
    """The nodes of a graph in the order of their time, from the file that ``end_profiling`` names.

    Args:
        profile: the file.
        graph: what the graph is called.
        requests: how many requests were run; one may run a graph several times.
    """
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL):
            runs[str(event["name"]).removesuffix(_KERNEL)].append(event)
    operators = [_operator(graph, node, events, requests) for node, events in runs.items()]
    return sorted(operators, key=lambda operator: -operator.us)


def _operator(graph: str, node: str, events: Sequence[Mapping[str, Any]], requests: int) -> Operator:
    times_us = np.sort([event["dur"] for event in events])
    each_us = float(times_us[: max(1, round(len(times_us) * (1 - _OUTLIERS)))].mean())
    per_request = len(events) / requests
    args = events[-1]["args"]
    kind, inputs = str(args["op_name"]), _shapes(args.get("input_type_shape", []))
    outputs = _shapes(args.get("output_type_shape", []))
    output = outputs[0] if outputs else ()
    flop = 0
    if kind in _LAYERS:
        flop = _LAYERS[kind](inputs)
    elif kind in _PRODUCTS | _INTEGER_PRODUCTS:
        flop = product_flop(inputs[0], output)
    return Operator(
        graph=graph,
        node=node,
        kind=kind,
        inputs=inputs,
        output=output,
        us=each_us * per_request,
        flop=round(flop * per_request),
        integer=kind in _INTEGER_PRODUCTS or kind in _LAYERS,
    )


def _shapes(tensors: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Shape, ...]:
    """From ``[{"float": [200, 64]}, ...]``."""
    return tuple(tuple(shape) for tensor in tensors for shape in tensor.values())


def product_flop(left: Shape, output: Shape) -> int:
    """Operations of a matrix product, from the shapes of its left factor and its result.

    Either may be transposed, so that the length of the sums is found by counting: the left factor has M K elements
    (per batch), the result M N.

    >>> product_flop((200, 64), (200, 4000)) == 2 * 200 * 64 * 4000
    True
    >>> product_flop((64, 200), (200, 4000)) == 2 * 200 * 64 * 4000  # transposed
    True
    >>> product_flop((8, 5, 7), (8, 5, 3)) == 8 * 2 * 5 * 7 * 3
    True
    >>> product_flop((200, 64), (200,)) == 2 * 200 * 64  # times a vector
    True
    """
    if not output or not left:
        return 2 * prod(left)
    if len(left) == 1:
        return 2 * left[0] * prod(output)
    rows = output[-2] if len(output) >= 2 else output[-1]
    length = prod(left[-2:]) // rows if rows else 0
    return 2 * length * prod(output)


def attention_flop(inputs: Sequence[Shape]) -> int:
    """Operations of the products in ``recsys.TargetAttention``, from the shapes of its inputs.

    >>> query, weight, second_weight = (200, 64), (64, 50, 80), (80, 40)
    >>> attention_flop([query, weight, (), (50, 80), second_weight]) == 2 * 200 * 50 * (64 * 80 + 80 * 40 + 40 + 64)
    True
    """
    (candidates, _), (width, events, first), (_, second) = inputs[0], inputs[1], inputs[4]
    return 2 * candidates * events * (width * first + first * second + second + width)


def head_flop(inputs: Sequence[Shape]) -> int:
    """Operations of the products in ``recsys.Head``, from the shapes of its inputs.

    >>> x, weight, second_weight = (200, 320), (320, 200), (200, 80)
    >>> head_flop([x, weight, (200,), (200,), second_weight]) == 2 * 200 * (320 * 200 + 200 * 80 + 80)
    True
    """
    (candidates, width), (_, first), (_, second) = inputs[0], inputs[1], inputs[4]
    return 2 * candidates * (width * first + first * second + second)


_LAYERS = {"TargetAttention": attention_flop, "Head": head_flop}
