"""The state of one user as a Redis value: sums of the events that it covers, in fp16.

``R`` rows, ``D`` width. ``docs/specs/redis_format.md`` specifies the bytes.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
import xxhash

from recsys.arrays import Float32Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.features.history.records import Events

MAGIC = b"RSS1"
FORMAT_VERSION = 1

HEADER = struct.Struct("<4sHH8sIIQQqqQh6x")
"""magic, format version, roundings, state version, R, D, first, end, as of, time of the first event, hash of the last
record, exponent of the scale; the checksum follows."""

_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = HEADER.size + _CHECKSUM.size

_LARGEST_EXPONENT = 15
"""Sums are scaled so that the largest is in [2^14, 2^15): fp16 ends at 2^16, and its full precision at 2^-14."""

_KEPT_BITS = np.int32(np.uint32(0x8FFF_E000).astype(np.int32))
_REBIAS = 2.0**112
"""fp16's exponent is less by 15, float32's by 127."""


class StoredState(NamedTuple):
    """A stored state.

    Attributes:
        sums: float32, shape [R, D].
        first, end: numbers of the first event covered and of the first after the last one; first < end.
        as_of_ms: the time at which every one of them counted.
        first_ms: timestamp of the first.
        last_hash: :func:`record_hash` of the last.
        roundings: how often sums of these events were rounded to fp16 one after another.
    """

    sums: Float32Array
    first: int
    end: int
    as_of_ms: int
    first_ms: int
    last_hash: int
    roundings: int

    @property
    def covered(self) -> int:
        """Events covered."""
        return self.end - self.first


def record_hash(events: Events, index: int, *, size_bytes: int | None = None) -> int:
    """XXH3-64 of one event's record, or of its first bytes: those that it had before attributes were added."""
    return xxhash.xxh3_64_intdigest(events[index].tobytes()[:size_bytes])


def pack_state(state: StoredState, *, version: str) -> bytes:
    """The bytes of a state.

    Args:
        state: its sums are rounded here.
        version: of the state (``Manifest.state_version``), 16 hex digits.

    Raises:
        InvalidInputError: a sum is not finite.
    """
    largest = float(np.abs(state.sums).max(initial=0.0))
    if not math.isfinite(largest):
        raise InvalidInputError("the sums of a state hold inf or NaN; allowed: finite numbers")
    exponent = math.frexp(largest)[1] - _LARGEST_EXPONENT if largest else 0
    body = (state.sums.astype(np.float64) * 2.0**-exponent).astype("<f2").tobytes()
    rows, width = state.sums.shape
    header = HEADER.pack(
        MAGIC, FORMAT_VERSION, state.roundings, bytes.fromhex(version), rows, width,
        state.first, state.end, state.as_of_ms, state.first_ms, state.last_hash, exponent,
    )  # fmt: skip
    return b"".join((header, _CHECKSUM.pack(_checksum(header, body)), body))


def unpack_state(data: bytes, *, version: str, rows: int, width: int) -> StoredState:
    """Read and check a state of that version.

    Raises:
        StoreFormatError: it is none, of a newer format, of another version or shape, cut off, or altered.
    """
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        raise StoreFormatError(
            f"not a state: expected {HEADER_BYTES} bytes or more that start with {MAGIC!r}, "
            f"found {len(data)} bytes starting with {data[:4]!r}"
        )
    (_, stored_format, roundings, stored_version, stored_rows, stored_width, first, end, as_of_ms, first_ms, last_hash,
     exponent) = HEADER.unpack_from(data)  # fmt: skip
    if stored_format > FORMAT_VERSION:
        raise StoreFormatError(
            f"state format {stored_format}, but this program reads up to {FORMAT_VERSION}: upgrade it"
        )
    if stored_version.hex() != version:
        raise StoreFormatError(f"state of version {stored_version.hex()}, not of {version}")
    if (stored_rows, stored_width) != (rows, width):
        raise StoreFormatError(f"state of shape [{stored_rows}, {stored_width}]; the bundle's is [{rows}, {width}]")
    if len(data) != HEADER_BYTES + 2 * rows * width:
        raise StoreFormatError(f"cut-off state: {len(data)} bytes of {HEADER_BYTES + 2 * rows * width}")
    view = memoryview(data)
    if _CHECKSUM.unpack_from(data, HEADER.size)[0] != _checksum(view[: HEADER.size], view[HEADER_BYTES:]):
        raise StoreFormatError("altered state: its checksum is not that of its bytes")
    if not first < end:
        raise StoreFormatError(f"state of the events {first} to {end}; allowed: one event or more")
    return StoredState(
        _to_float32(view[HEADER_BYTES:], exponent).reshape(rows, width),
        first, end, as_of_ms, first_ms, last_hash, roundings,
    )  # fmt: skip


def _checksum(header: bytes | memoryview, body: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(header)
    digest.update(body)
    return digest.intdigest()


def _to_float32(body: memoryview, exponent: int) -> Float32Array:
    """fp16 bytes times 2^exponent; half the time of numpy's own conversion. The bytes hold no inf or NaN."""
    bits = np.frombuffer(body, dtype="<i2").astype(np.int32)
    bits <<= 13
    bits &= _KEPT_BITS  # the sign was spread over what is now the exponent's upper end
    numbers: Float32Array = bits.view(np.float32)
    numbers *= np.float32(_REBIAS)
    if exponent:
        numbers *= np.float32(2.0**exponent)
    return numbers
