# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Degradation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_UNSPECIFIED: _ClassVar[Degradation]
    DEGRADATION_USER_UNAVAILABLE: _ClassVar[Degradation]
    DEGRADATION_ITEMS_UNAVAILABLE: _ClassVar[Degradation]
DEGRADATION_UNSPECIFIED: Degradation
DEGRADATION_USER_UNAVAILABLE: Degradation
DEGRADATION_ITEMS_UNAVAILABLE: Degradation

class Id(_message.Message):
    __slots__ = ("integer", "text")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    integer: int
    text: str
    def __init__(self, integer: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Ids(_message.Message):
    __slots__ = ("integers", "texts")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class FeatureValue(_message.Message):
    __slots__ = ("integers", "texts", "numbers")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    numbers: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., numbers: _Optional[_Iterable[float]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("model", "user", "candidates", "features", "top_k", "time_ms")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    model: str
    user: Id
    candidates: Ids
    features: _containers.MessageMap[str, FeatureValue]
    top_k: int
    time_ms: int
    def __init__(self, model: _Optional[str] = ..., user: _Optional[_Union[Id, _Mapping]] = ..., candidates: _Optional[_Union[Ids, _Mapping]] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., top_k: _Optional[int] = ..., time_ms: _Optional[int] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("scores", "positions", "model", "model_version", "history_events", "degraded")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    positions: _containers.RepeatedScalarFieldContainer[int]
    model: str
    model_version: str
    history_events: int
    degraded: _containers.RepeatedScalarFieldContainer[Degradation]
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., positions: _Optional[_Iterable[int]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., history_events: _Optional[int] = ..., degraded: _Optional[_Iterable[_Union[Degradation, str]]] = ...) -> None: ...
