"""A bundle's graphs in ONNX Runtime: loaded for serving, their signatures compared with what is expected."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnxruntime as ort

from recsys.bundle import Bundle, TensorInfo
from recsys.errors import BundleError
from recsys.operators import Operators, use_operators
from recsys.serving.scheduling import at_low_priority

_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}


def load_graph(
    bundle: Bundle,
    name: str,
    intra_op_threads: int,
    *,
    operators: Operators = "auto",
    profile: Path | None = None,
    low_priority: bool = False,
) -> ort.InferenceSession:
    """One graph of a bundle, ready to run.

    Args:
        bundle: whose it is.
        name: the graph's.
        intra_op_threads: threads inside one run.
        operators: who computes the graph's functions.
        profile: begin of the name of a file that ``end_profiling`` writes the operators' times to.
        low_priority: leave the core to calls that are answered meanwhile.

    Raises:
        BundleError: the bundle has no such graph, or ONNX Runtime cannot load it.
    """
    if name not in bundle.manifest.graphs:
        raise BundleError(
            f"{bundle.path}: no graph {name!r}; a ranking bundle has 'user' and 'rank', and 'encode' if it has a "
            "state; a retrieval bundle has 'retrieve', and perhaps 'item'"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without the arena glibc returns each run's memory and faults it in again: measured on a DIN of 50 events and
    # 200 candidates, 1,400 page faults and 6.4 ms a call instead of none and 3.4 ms. What a large request makes the
    # arena grow to is given back by RankingSession. Memory patterns need fixed shapes.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    use_operators(options, operators)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        make = partial(ort.InferenceSession, bundle.graph_path(name), options, providers=["CPUExecutionProvider"])
        return at_low_priority(make) if low_priority else make()
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        hint = ""
        if "bad_alloc" in str(error):  # ONNX Runtime's mapping is private and writable, which Linux counts as memory
            hint = "; Linux maps a table larger than all memory and swap only with vm.overcommit_memory=1"
        raise BundleError(f"{bundle.path}: graph {name!r} does not load: {error}{hint}") from error


def inputs_of(graph: ort.InferenceSession) -> dict[str, TensorInfo]:
    """Inputs of a graph, by name."""
    return {i.name: _info(i) for i in graph.get_inputs()}


def outputs_of(graph: ort.InferenceSession) -> dict[str, TensorInfo]:
    """Outputs of a graph, by name."""
    return {o.name: _info(o) for o in graph.get_outputs()}


def _info(node: ort.NodeArg) -> TensorInfo:
    return TensorInfo(dtype=_DTYPES.get(node.type, node.type), shape=tuple(node.shape))


def check_manifest(bundle: Bundle, name: str, graph: ort.InferenceSession) -> None:
    """Compare a graph with what the manifest says of it.

    Raises:
        BundleError: an input or output differs; names the first.
    """
    declared = bundle.manifest.graphs[name]
    sides = (("input", declared.inputs, inputs_of(graph)), ("output", declared.outputs, outputs_of(graph)))
    for side, expected, found in sides:
        for tensor in [*expected, *found]:
            where = f"graph {name!r}, {side} {tensor!r}"
            check_same(bundle, where, expected.get(tensor), found.get(tensor), source="the manifest")


def check_same(
    bundle: Bundle,
    where: str,
    expected: TensorInfo | None,
    found: TensorInfo | None,
    *,
    source: str = "the FeatureSet",
) -> None:
    """Compare one tensor's dtype and shape.

    Args:
        bundle: whose it is.
        where: the tensor, for the message.
        expected, found: None for a tensor that is not there.
        source: who says what is expected.

    Raises:
        BundleError: they differ.
    """
    if expected is None or found is None or expected.dtype != found.dtype or not _shapes_fit(expected, found):
        raise BundleError(f"{bundle.path}: {where}: the graph has {_text(found)}, {source} says {_text(expected)}")


def _shapes_fit(expected: TensorInfo, found: TensorInfo) -> bool:
    """Same rank, equal fixed sizes; a dynamic size is allowed anywhere but must be where one is expected."""
    return len(expected.shape) == len(found.shape) and all(
        not isinstance(have, int) or have == want for want, have in zip(expected.shape, found.shape, strict=True)
    )


def _text(info: TensorInfo | None) -> str:
    return "nothing" if info is None else f"{info.dtype} {list(info.shape)}"
