# mypy: ignore-errors
from recsys.serving._pb import ranker_pb2 as _ranker_pb2
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
    __slots__ = ("user", "events")
    USER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    user: _ranker_pb2.Id
    events: EventColumns
    def __init__(self, user: _Optional[_Union[_ranker_pb2.Id, _Mapping]] = ..., events: _Optional[_Union[EventColumns, _Mapping]] = ...) -> None: ...

class AppendEventsResponse(_message.Message):
    __slots__ = ("added", "stored")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    added: int
    stored: int
    def __init__(self, added: _Optional[int] = ..., stored: _Optional[int] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("user", "limit")
    USER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    user: _ranker_pb2.Id
    limit: int
    def __init__(self, user: _Optional[_Union[_ranker_pb2.Id, _Mapping]] = ..., limit: _Optional[int] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("events", "appended", "trimmed")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    events: EventColumns
    appended: int
    trimmed: int
    def __init__(self, events: _Optional[_Union[EventColumns, _Mapping]] = ..., appended: _Optional[int] = ..., trimmed: _Optional[int] = ...) -> None: ...
