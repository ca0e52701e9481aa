"""Speed of this machine's matrix products: a large one in ONNX Runtime, one thread.

The graph is written here, in protobuf's wire format: the package that writes ONNX is not one of the server's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

SIZE = 512
"""Three square matrices of it fit in a core's second-level cache nearly; measured, larger ones are no faster."""

_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6
_IR_VERSION, _OPSET = 10, 21
_ROUNDS = 40


def matmul_gflops() -> float:
    """float32 operations in 1e9 per second, a product and a sum being two; the best of some 40 products."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    return _speed(matmul_model("MatMul", (_FLOAT, _FLOAT, _FLOAT)), left, right)


def integer_matmul_gops() -> float:
    """The same of uint8 times int8."""
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    right = random.integers(-128, 128, (SIZE, SIZE)).astype(np.int8)
    return _speed(matmul_model("MatMulInteger", (_UINT8, _INT8, _INT32)), left, right)


def _speed(model: bytes, left: np.ndarray, right: np.ndarray) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    best_s = np.inf
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        session.run(None, {"a": left, "b": right})
        best_s = min(best_s, time.perf_counter() - started_s)
    return float(2 * SIZE**3 / best_s / 1e9)


def matmul_model(operator: str, types: tuple[int, int, int]) -> bytes:
    """An ONNX model of one product ``y = a b``; ``types``: ONNX's numbers of a's, b's and y's.

    Field numbers are those of onnx.proto3.
    """
    node = _text(1, "a") + _text(1, "b") + _text(2, "y") + _text(4, operator)
    graph = _nested(1, node) + _text(2, "product")
    graph += (
        _nested(11, _value("a", types[0])) + _nested(11, _value("b", types[1])) + _nested(12, _value("y", types[2]))
    )
    return _number(1, _IR_VERSION) + _nested(7, graph) + _nested(8, _number(2, _OPSET))


def _value(name: str, kind: int) -> bytes:
    shape = b"".join(_nested(1, _number(1, size)) for size in (SIZE, SIZE))
    return _text(1, name) + _nested(2, _nested(1, _number(1, kind) + _nested(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _nested(field, value.encode())


def _nested(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits: Sequence[int] = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])
