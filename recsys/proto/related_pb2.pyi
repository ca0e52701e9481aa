# mypy: ignore-errors
from google.api import annotations_pb2 as _annotations_pb2
from recsys.proto import ranker_pb2 as _ranker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SimilarBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIMILAR_BY_UNSPECIFIED: _ClassVar[SimilarBy]
    SIMILAR_BY_VECTORS: _ClassVar[SimilarBy]
    SIMILAR_BY_USERS: _ClassVar[SimilarBy]
SIMILAR_BY_UNSPECIFIED: SimilarBy
SIMILAR_BY_VECTORS: SimilarBy
SIMILAR_BY_USERS: SimilarBy

class SimilarRequest(_message.Message):
    __slots__ = ("items", "top_k", "exclude", "model", "timings", "filter", "by")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    top_k: int
    exclude: _ranker_pb2.Ids
    model: str
    timings: bool
    filter: _ranker_pb2.Filter
    by: SimilarBy
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., top_k: _Optional[int] = ..., exclude: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., model: _Optional[str] = ..., timings: _Optional[bool] = ..., filter: _Optional[_Union[_ranker_pb2.Filter, _Mapping]] = ..., by: _Optional[_Union[SimilarBy, str]] = ...) -> None: ...

class SimilarResponse(_message.Message):
    __slots__ = ("items", "scores", "unknown", "model", "model_version", "release", "timings", "filter", "degraded", "by")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    scores: _containers.RepeatedScalarFieldContainer[float]
    unknown: _containers.RepeatedScalarFieldContainer[int]
    model: str
    model_version: str
    release: str
    timings: _ranker_pb2.Timings
    filter: _ranker_pb2.FilterReport
    degraded: _containers.RepeatedScalarFieldContainer[_ranker_pb2.Degradation]
    by: SimilarBy
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., scores: _Optional[_Iterable[float]] = ..., unknown: _Optional[_Iterable[int]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., release: _Optional[str] = ..., timings: _Optional[_Union[_ranker_pb2.Timings, _Mapping]] = ..., filter: _Optional[_Union[_ranker_pb2.FilterReport, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[_ranker_pb2.Degradation, str]]] = ..., by: _Optional[_Union[SimilarBy, str]] = ...) -> None: ...

class TrendingRequest(_message.Message):
    __slots__ = ("top_k", "exclude", "timings", "filter")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    exclude: _ranker_pb2.Ids
    timings: bool
    filter: _ranker_pb2.Filter
    def __init__(self, top_k: _Optional[int] = ..., exclude: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., timings: _Optional[bool] = ..., filter: _Optional[_Union[_ranker_pb2.Filter, _Mapping]] = ...) -> None: ...

class TrendingResponse(_message.Message):
    __slots__ = ("items", "scores", "as_of_ms", "half_life_s", "window_s", "stale", "timings", "filter", "degraded")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    HALF_LIFE_S_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    scores: _containers.RepeatedScalarFieldContainer[float]
    as_of_ms: int
    half_life_s: int
    window_s: int
    stale: bool
    timings: _ranker_pb2.Timings
    filter: _ranker_pb2.FilterReport
    degraded: _containers.RepeatedScalarFieldContainer[_ranker_pb2.Degradation]
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., scores: _Optional[_Iterable[float]] = ..., as_of_ms: _Optional[int] = ..., half_life_s: _Optional[int] = ..., window_s: _Optional[int] = ..., stale: _Optional[bool] = ..., timings: _Optional[_Union[_ranker_pb2.Timings, _Mapping]] = ..., filter: _Optional[_Union[_ranker_pb2.FilterReport, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[_ranker_pb2.Degradation, str]]] = ...) -> None: ...

class AudienceRequest(_message.Message):
    __slots__ = ("items", "top_k", "at_least", "model", "timings")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    top_k: int
    at_least: int
    model: str
    timings: bool
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., top_k: _Optional[int] = ..., at_least: _Optional[int] = ..., model: _Optional[str] = ..., timings: _Optional[bool] = ...) -> None: ...

class AudienceResponse(_message.Message):
    __slots__ = ("users", "shared", "of", "total", "unknown", "model", "model_version", "release", "timings")
    USERS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    users: _ranker_pb2.Ids
    shared: _containers.RepeatedScalarFieldContainer[int]
    of: _containers.RepeatedScalarFieldContainer[int]
    total: int
    unknown: _containers.RepeatedScalarFieldContainer[int]
    model: str
    model_version: str
    release: str
    timings: _ranker_pb2.Timings
    def __init__(self, users: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., shared: _Optional[_Iterable[int]] = ..., of: _Optional[_Iterable[int]] = ..., total: _Optional[int] = ..., unknown: _Optional[_Iterable[int]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., release: _Optional[str] = ..., timings: _Optional[_Union[_ranker_pb2.Timings, _Mapping]] = ...) -> None: ...
