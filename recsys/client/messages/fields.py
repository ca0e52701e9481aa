"""Fields of requests from arguments; protobuf's complaints name the argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.client.types import Id
from recsys.errors import InvalidInputError
from recsys.features.names import UnknownText
from recsys.proto import feature_store_pb2, ranker_pb2

_MISSING = -1
_MILLISECONDS = "an integer, milliseconds since 1970"


def id_field(value: Id, *, name: str = "user") -> ranker_pb2.Id:
    """An id, an integer or a string; ``name`` is the argument's."""
    with fitting(name):
        return ranker_pb2.Id(text=value) if isinstance(value, str) else ranker_pb2.Id(integer=value)


def set_fields(request: Any, **values: Any) -> None:
    """Set fields of a request; None leaves one as it is."""
    for name, value in values.items():
        if value is None:
            continue
        allowed = "a string" if name.endswith("model") else "an integer, 0 or more"
        with fitting(name, allowed=_MILLISECONDS if name.endswith("_ms") else allowed):
            setattr(request, name, value)


def ids_field(name: str, values: Any, *, missing: bool = False) -> ranker_pb2.Ids:
    """Integers or strings; with ``missing``, ``None`` becomes what the server takes for no value."""
    with fitting(name):
        given = _list(values)
    texts = isinstance(next((v for v in given if v is not None), None), str)
    if missing:
        given = [("" if texts else -1) if v is None else v for v in given]
    with fitting(name):
        return ranker_pb2.Ids(texts=given) if texts else ranker_pb2.Ids(integers=given)


def integers_field(name: str, values: Any) -> Any:
    """Integers, as a repeated field."""
    return ids_field(name, values).integers


def feature_values(features: Mapping[str, Any] | None) -> dict[str, ranker_pb2.FeatureValue]:
    """Features of a request: a value, ``None`` or several values for each."""
    return {name: _feature_value(name, value) for name, value in (features or {}).items()}


def ids_of(
    ids: ranker_pb2.Ids | feature_store_pb2.FeatureColumn, names: Mapping[int, str]
) -> npt.NDArray[np.int64] | npt.NDArray[np.object_]:
    """Ids of an answer: integers; or texts, None for a missing one and :class:`UnknownText` for one without a name."""
    keys = np.array(ids.integers, dtype=np.int64)
    if not ids.are_keys:
        return keys
    distinct, places = np.unique(keys, return_inverse=True)
    texts = np.empty(len(distinct), dtype=object)
    texts[:] = [None if key == _MISSING else names.get(key) or UnknownText(key) for key in distinct.tolist()]
    return texts[places]


def found_ids(ids: ranker_pb2.Ids) -> npt.NDArray[Any]:
    """Ids of the items of an answer: integers, or texts (dtype object)."""
    return np.array(ids.texts, dtype=object) if ids.texts else np.array(ids.integers, dtype=np.int64)


def timings_us(response: Any) -> dict[str, int]:
    """Microseconds by stage, if an answer has them."""
    if not response.HasField("timings"):
        return {}
    fields = ranker_pb2.Timings.DESCRIPTOR.fields
    return {field.name.removesuffix("_us"): getattr(response.timings, field.name) for field in fields}


def _feature_value(name: str, value: Any) -> ranker_pb2.FeatureValue:
    if value is None:
        return ranker_pb2.FeatureValue()
    values = [value] if isinstance(value, str) or not hasattr(value, "__len__") else _list(value)
    if any(isinstance(v, float | np.floating) for v in values):
        with fitting(name):
            return ranker_pb2.FeatureValue(numbers=values)
    ids = ids_field(name, values)
    return ranker_pb2.FeatureValue(integers=ids.integers, texts=ids.texts)


def feature_column(name: str, values: Any) -> feature_store_pb2.FeatureColumn:
    """A feature of N entities: a value, ``None`` or several ids for each."""
    with fitting(name):
        rows = _list(values)
    lengths: list[int] = []
    if any(row is None or _is_list(row) for row in rows):
        per_row = [[] if row is None else _list(row) if _is_list(row) else [row] for row in rows]
        lengths, rows = [len(row) for row in per_row], [value for row in per_row for value in row]
    if any(isinstance(v, float | np.floating) for v in rows):
        with fitting(name, allowed="numbers only"):
            return feature_store_pb2.FeatureColumn(numbers=rows, lengths=lengths)
    ids = ids_field(name, rows, missing=True)
    return feature_store_pb2.FeatureColumn(integers=ids.integers, texts=ids.texts, lengths=lengths)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _list(values: Any) -> list[Any]:
    # tolist(): Python's own numbers go into protobuf faster than numpy's.
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


@contextmanager
def fitting(name: str, *, allowed: str = "64-bit integers only, or strings only") -> Iterator[None]:
    """protobuf checks types and ranges while it copies; name the argument in its complaint."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name}: {error}; allowed: {allowed}") from None
