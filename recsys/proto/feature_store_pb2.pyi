# mypy: ignore-errors
from google.api import annotations_pb2 as _annotations_pb2
from recsys.proto import ranker_pb2 as _ranker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventColumns(_message.Message):
    __slots__ = ("items", "timestamps_ms", "arrivals_ms", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _ranker_pb2.Ids
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_MS_FIELD_NUMBER: _ClassVar[int]
    ARRIVALS_MS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    timestamps_ms: _containers.RepeatedScalarFieldContainer[int]
    arrivals_ms: _containers.RepeatedScalarFieldContainer[int]
    attributes: _containers.MessageMap[str, _ranker_pb2.Ids]
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., timestamps_ms: _Optional[_Iterable[int]] = ..., arrivals_ms: _Optional[_Iterable[int]] = ..., attributes: _Optional[_Mapping[str, _ranker_pb2.Ids]] = ...) -> None: ...

class AppendEventsRequest(_message.Message):
    __slots__ = ("user", "events", "source", "offsets", "restart_source")
    USER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    RESTART_SOURCE_FIELD_NUMBER: _ClassVar[int]
    user: _ranker_pb2.Id
    events: EventColumns
    source: str
    offsets: _containers.RepeatedScalarFieldContainer[int]
    restart_source: bool
    def __init__(self, user: _Optional[_Union[_ranker_pb2.Id, _Mapping]] = ..., events: _Optional[_Union[EventColumns, _Mapping]] = ..., source: _Optional[str] = ..., offsets: _Optional[_Iterable[int]] = ..., restart_source: _Optional[bool] = ...) -> None: ...

class AppendEventsResponse(_message.Message):
    __slots__ = ("added", "stored", "skipped")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    added: int
    stored: int
    skipped: int
    def __init__(self, added: _Optional[int] = ..., stored: _Optional[int] = ..., skipped: _Optional[int] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("message", "reason")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    message: int
    reason: str
    def __init__(self, message: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AppendEventStreamResponse(_message.Message):
    __slots__ = ("messages", "events", "added", "rejected", "rejections", "skipped")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    messages: int
    events: int
    added: int
    rejected: int
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    skipped: int
    def __init__(self, messages: _Optional[int] = ..., events: _Optional[int] = ..., added: _Optional[int] = ..., rejected: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., skipped: _Optional[int] = ...) -> None: ...

class FeatureColumn(_message.Message):
    __slots__ = ("integers", "texts", "numbers", "lengths", "are_keys")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    ARE_KEYS_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    numbers: _containers.RepeatedScalarFieldContainer[float]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    are_keys: bool
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., numbers: _Optional[_Iterable[float]] = ..., lengths: _Optional[_Iterable[int]] = ..., are_keys: _Optional[bool] = ...) -> None: ...

class PutEntitiesRequest(_message.Message):
    __slots__ = ("entity", "ids", "features", "clear")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureColumn
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureColumn, _Mapping]] = ...) -> None: ...
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FIELD_NUMBER: _ClassVar[int]
    entity: str
    ids: _ranker_pb2.Ids
    features: _containers.MessageMap[str, FeatureColumn]
    clear: bool
    def __init__(self, entity: _Optional[str] = ..., ids: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., features: _Optional[_Mapping[str, FeatureColumn]] = ..., clear: _Optional[bool] = ...) -> None: ...

class Damage(_message.Message):
    __slots__ = ("position", "reason")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    position: int
    reason: str
    def __init__(self, position: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class PutEntitiesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WithdrawItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _ranker_pb2.Ids
    def __init__(self, items: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ...) -> None: ...

class WithdrawItemsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFeaturesRequest(_message.Message):
    __slots__ = ("entity", "ids")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    entity: str
    ids: _ranker_pb2.Ids
    def __init__(self, entity: _Optional[str] = ..., ids: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ...) -> None: ...

class GetFeaturesResponse(_message.Message):
    __slots__ = ("features", "names", "damaged")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureColumn
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureColumn, _Mapping]] = ...) -> None: ...
    class NamesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    features: _containers.MessageMap[str, FeatureColumn]
    names: _containers.ScalarMap[int, str]
    damaged: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, features: _Optional[_Mapping[str, FeatureColumn]] = ..., names: _Optional[_Mapping[int, str]] = ..., damaged: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("user", "limit", "since_ms", "until_ms")
    USER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    user: _ranker_pb2.Id
    limit: int
    since_ms: int
    until_ms: int
    def __init__(self, user: _Optional[_Union[_ranker_pb2.Id, _Mapping]] = ..., limit: _Optional[int] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("events", "appended", "trimmed", "names")
    class NamesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    events: EventColumns
    appended: int
    trimmed: int
    names: _containers.ScalarMap[int, str]
    def __init__(self, events: _Optional[_Union[EventColumns, _Mapping]] = ..., appended: _Optional[int] = ..., trimmed: _Optional[int] = ..., names: _Optional[_Mapping[int, str]] = ...) -> None: ...

class GetHistoriesRequest(_message.Message):
    __slots__ = ("users", "limit")
    USERS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    users: _ranker_pb2.Ids
    limit: int
    def __init__(self, users: _Optional[_Union[_ranker_pb2.Ids, _Mapping]] = ..., limit: _Optional[int] = ...) -> None: ...

class GetHistoriesResponse(_message.Message):
    __slots__ = ("events", "lengths", "appended", "trimmed", "names", "damaged")
    class NamesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    events: EventColumns
    lengths: _containers.RepeatedScalarFieldContainer[int]
    appended: _containers.RepeatedScalarFieldContainer[int]
    trimmed: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.ScalarMap[int, str]
    damaged: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, events: _Optional[_Union[EventColumns, _Mapping]] = ..., lengths: _Optional[_Iterable[int]] = ..., appended: _Optional[_Iterable[int]] = ..., trimmed: _Optional[_Iterable[int]] = ..., names: _Optional[_Mapping[int, str]] = ..., damaged: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...
