# mypy: ignore-errors
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmptyReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMPTY_REASON_UNSPECIFIED: _ClassVar[EmptyReason]
    EMPTY_REASON_CONTRADICTION: _ClassVar[EmptyReason]
    EMPTY_REASON_NO_ITEM: _ClassVar[EmptyReason]
    EMPTY_REASON_LEFT_OUT: _ClassVar[EmptyReason]
    EMPTY_REASON_NOT_READY: _ClassVar[EmptyReason]

class PinOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIN_OUTCOME_UNSPECIFIED: _ClassVar[PinOutcome]
    PIN_OUTCOME_PLACED: _ClassVar[PinOutcome]
    PIN_OUTCOME_EXCLUDED: _ClassVar[PinOutcome]
    PIN_OUTCOME_SEEN: _ClassVar[PinOutcome]
    PIN_OUTCOME_UNKNOWN: _ClassVar[PinOutcome]
    PIN_OUTCOME_WITHDRAWN: _ClassVar[PinOutcome]
    PIN_OUTCOME_FILTERED_OUT: _ClassVar[PinOutcome]
    PIN_OUTCOME_NOT_A_CANDIDATE: _ClassVar[PinOutcome]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSPECIFIED: _ClassVar[Fallback]
    FALLBACK_POPULARITY: _ClassVar[Fallback]
    FALLBACK_SEGMENT: _ClassVar[Fallback]
    FALLBACK_TRENDING: _ClassVar[Fallback]

class Degradation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_UNSPECIFIED: _ClassVar[Degradation]
    DEGRADATION_USER_UNAVAILABLE: _ClassVar[Degradation]
    DEGRADATION_ITEMS_UNAVAILABLE: _ClassVar[Degradation]
    DEGRADATION_HISTORY_PARTIAL: _ClassVar[Degradation]
    DEGRADATION_ATTRIBUTES_STALE: _ClassVar[Degradation]

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    SIDE_USER: _ClassVar[Side]
    SIDE_CONTEXT: _ClassVar[Side]
    SIDE_ITEM: _ClassVar[Side]
    SIDE_HISTORY: _ClassVar[Side]
EMPTY_REASON_UNSPECIFIED: EmptyReason
EMPTY_REASON_CONTRADICTION: EmptyReason
EMPTY_REASON_NO_ITEM: EmptyReason
EMPTY_REASON_LEFT_OUT: EmptyReason
EMPTY_REASON_NOT_READY: EmptyReason
PIN_OUTCOME_UNSPECIFIED: PinOutcome
PIN_OUTCOME_PLACED: PinOutcome
PIN_OUTCOME_EXCLUDED: PinOutcome
PIN_OUTCOME_SEEN: PinOutcome
PIN_OUTCOME_UNKNOWN: PinOutcome
PIN_OUTCOME_WITHDRAWN: PinOutcome
PIN_OUTCOME_FILTERED_OUT: PinOutcome
PIN_OUTCOME_NOT_A_CANDIDATE: PinOutcome
FALLBACK_UNSPECIFIED: Fallback
FALLBACK_POPULARITY: Fallback
FALLBACK_SEGMENT: Fallback
FALLBACK_TRENDING: Fallback
DEGRADATION_UNSPECIFIED: Degradation
DEGRADATION_USER_UNAVAILABLE: Degradation
DEGRADATION_ITEMS_UNAVAILABLE: Degradation
DEGRADATION_HISTORY_PARTIAL: Degradation
DEGRADATION_ATTRIBUTES_STALE: Degradation
SIDE_UNSPECIFIED: Side
SIDE_USER: Side
SIDE_CONTEXT: Side
SIDE_ITEM: Side
SIDE_HISTORY: Side

class Id(_message.Message):
    __slots__ = ("integer", "text")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    integer: int
    text: str
    def __init__(self, integer: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Ids(_message.Message):
    __slots__ = ("integers", "texts", "are_keys")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ARE_KEYS_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    are_keys: bool
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., are_keys: _Optional[bool] = ...) -> None: ...

class FeatureValue(_message.Message):
    __slots__ = ("integers", "texts", "numbers")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    numbers: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., numbers: _Optional[_Iterable[float]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all", "any")
    ALL_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    all: _containers.RepeatedCompositeFieldContainer[Condition]
    any: _containers.RepeatedCompositeFieldContainer[AnyOf]
    def __init__(self, all: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., any: _Optional[_Iterable[_Union[AnyOf, _Mapping]]] = ...) -> None: ...

class AnyOf(_message.Message):
    __slots__ = ("of",)
    OF_FIELD_NUMBER: _ClassVar[int]
    of: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, of: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("attribute", "any_of", "none_of", "range", "flag", "present")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    any_of: Ids
    none_of: Ids
    range: NumberRange
    flag: bool
    present: bool
    def __init__(self, attribute: _Optional[str] = ..., any_of: _Optional[_Union[Ids, _Mapping]] = ..., none_of: _Optional[_Union[Ids, _Mapping]] = ..., range: _Optional[_Union[NumberRange, _Mapping]] = ..., flag: _Optional[bool] = ..., present: _Optional[bool] = ...) -> None: ...

class NumberRange(_message.Message):
    __slots__ = ("min", "above", "max", "below")
    MIN_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    min: float
    above: float
    max: float
    below: float
    def __init__(self, min: _Optional[float] = ..., above: _Optional[float] = ..., max: _Optional[float] = ..., below: _Optional[float] = ...) -> None: ...

class FilterReport(_message.Message):
    __slots__ = ("passed", "reason", "detail", "unknown_values", "age_ms", "filtered_out", "withdrawn_late")
    PASSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_VALUES_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    FILTERED_OUT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_LATE_FIELD_NUMBER: _ClassVar[int]
    passed: int
    reason: EmptyReason
    detail: str
    unknown_values: _containers.RepeatedScalarFieldContainer[str]
    age_ms: int
    filtered_out: _containers.RepeatedScalarFieldContainer[int]
    withdrawn_late: int
    def __init__(self, passed: _Optional[int] = ..., reason: _Optional[_Union[EmptyReason, str]] = ..., detail: _Optional[str] = ..., unknown_values: _Optional[_Iterable[str]] = ..., age_ms: _Optional[int] = ..., filtered_out: _Optional[_Iterable[int]] = ..., withdrawn_late: _Optional[int] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("at_most", "boost", "pin", "diverse")
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    BOOST_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    DIVERSE_FIELD_NUMBER: _ClassVar[int]
    at_most: AtMost
    boost: Boost
    pin: Pin
    diverse: Diverse
    def __init__(self, at_most: _Optional[_Union[AtMost, _Mapping]] = ..., boost: _Optional[_Union[Boost, _Mapping]] = ..., pin: _Optional[_Union[Pin, _Mapping]] = ..., diverse: _Optional[_Union[Diverse, _Mapping]] = ...) -> None: ...

class AtMost(_message.Message):
    __slots__ = ("count", "attribute", "when")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    count: int
    attribute: str
    when: Condition
    def __init__(self, count: _Optional[int] = ..., attribute: _Optional[str] = ..., when: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...

class Boost(_message.Message):
    __slots__ = ("when", "multiply", "add")
    WHEN_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    when: Condition
    multiply: float
    add: float
    def __init__(self, when: _Optional[_Union[Condition, _Mapping]] = ..., multiply: _Optional[float] = ..., add: _Optional[float] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("item", "place")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    item: Id
    place: int
    def __init__(self, item: _Optional[_Union[Id, _Mapping]] = ..., place: _Optional[int] = ...) -> None: ...

class Diverse(_message.Message):
    __slots__ = ("relevance",)
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    relevance: float
    def __init__(self, relevance: _Optional[float] = ...) -> None: ...

class RuleEffect(_message.Message):
    __slots__ = ("acted", "left_out", "pin", "place")
    ACTED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    acted: int
    left_out: int
    pin: PinOutcome
    place: int
    def __init__(self, acted: _Optional[int] = ..., left_out: _Optional[int] = ..., pin: _Optional[_Union[PinOutcome, str]] = ..., place: _Optional[int] = ...) -> None: ...

class ItemReason(_message.Message):
    __slots__ = ("place_by_score", "rules")
    PLACE_BY_SCORE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    place_by_score: int
    rules: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, place_by_score: _Optional[int] = ..., rules: _Optional[_Iterable[int]] = ...) -> None: ...

class RulesReport(_message.Message):
    __slots__ = ("effects", "lacking", "detail", "unknown_values", "without_vector", "age_ms", "reasons")
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_VALUES_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_VECTOR_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    effects: _containers.RepeatedCompositeFieldContainer[RuleEffect]
    lacking: int
    detail: str
    unknown_values: _containers.RepeatedScalarFieldContainer[str]
    without_vector: int
    age_ms: int
    reasons: _containers.RepeatedCompositeFieldContainer[ItemReason]
    def __init__(self, effects: _Optional[_Iterable[_Union[RuleEffect, _Mapping]]] = ..., lacking: _Optional[int] = ..., detail: _Optional[str] = ..., unknown_values: _Optional[_Iterable[str]] = ..., without_vector: _Optional[int] = ..., age_ms: _Optional[int] = ..., reasons: _Optional[_Iterable[_Union[ItemReason, _Mapping]]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("model", "user", "candidates", "features", "top_k", "time_ms", "timings", "filter", "rules", "reasons")
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
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    user: Id
    candidates: Ids
    features: _containers.MessageMap[str, FeatureValue]
    top_k: int
    time_ms: int
    timings: bool
    filter: Filter
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    reasons: bool
    def __init__(self, model: _Optional[str] = ..., user: _Optional[_Union[Id, _Mapping]] = ..., candidates: _Optional[_Union[Ids, _Mapping]] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., top_k: _Optional[int] = ..., time_ms: _Optional[int] = ..., timings: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ..., reasons: _Optional[bool] = ...) -> None: ...

class RankBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RankRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RankRequest, _Mapping]]] = ...) -> None: ...

class RankBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[RankResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[RankResponse, _Mapping]]] = ...) -> None: ...

class RetrieveRequest(_message.Message):
    __slots__ = ("model", "user", "top_k", "exclude", "include_seen", "time_ms", "timings", "filter", "features", "fallback")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    model: str
    user: Id
    top_k: int
    exclude: Ids
    include_seen: bool
    time_ms: int
    timings: bool
    filter: Filter
    features: _containers.MessageMap[str, FeatureValue]
    fallback: Fallback
    def __init__(self, model: _Optional[str] = ..., user: _Optional[_Union[Id, _Mapping]] = ..., top_k: _Optional[int] = ..., exclude: _Optional[_Union[Ids, _Mapping]] = ..., include_seen: _Optional[bool] = ..., time_ms: _Optional[int] = ..., timings: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., fallback: _Optional[_Union[Fallback, str]] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("items", "scores", "model", "model_version", "user_known", "history_events", "degraded", "timings", "release", "fallback", "filter", "items_shard", "items_shards")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_KNOWN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_SHARD_FIELD_NUMBER: _ClassVar[int]
    ITEMS_SHARDS_FIELD_NUMBER: _ClassVar[int]
    items: Ids
    scores: _containers.RepeatedScalarFieldContainer[float]
    model: str
    model_version: str
    user_known: bool
    history_events: int
    degraded: _containers.RepeatedScalarFieldContainer[Degradation]
    timings: Timings
    release: str
    fallback: Fallback
    filter: FilterReport
    items_shard: int
    items_shards: int
    def __init__(self, items: _Optional[_Union[Ids, _Mapping]] = ..., scores: _Optional[_Iterable[float]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., user_known: _Optional[bool] = ..., history_events: _Optional[int] = ..., degraded: _Optional[_Iterable[_Union[Degradation, str]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., release: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., filter: _Optional[_Union[FilterReport, _Mapping]] = ..., items_shard: _Optional[int] = ..., items_shards: _Optional[int] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user", "top_k", "candidates", "features", "exclude", "include_seen", "model", "retrieval_model", "time_ms", "timings", "filter", "rules", "reasons", "fallback")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    USER_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_MODEL_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    user: Id
    top_k: int
    candidates: int
    features: _containers.MessageMap[str, FeatureValue]
    exclude: Ids
    include_seen: bool
    model: str
    retrieval_model: str
    time_ms: int
    timings: bool
    filter: Filter
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    reasons: bool
    fallback: Fallback
    def __init__(self, user: _Optional[_Union[Id, _Mapping]] = ..., top_k: _Optional[int] = ..., candidates: _Optional[int] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., exclude: _Optional[_Union[Ids, _Mapping]] = ..., include_seen: _Optional[bool] = ..., model: _Optional[str] = ..., retrieval_model: _Optional[str] = ..., time_ms: _Optional[int] = ..., timings: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ..., reasons: _Optional[bool] = ..., fallback: _Optional[_Union[Fallback, str]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "scores", "model", "model_version", "retrieval_model", "retrieval_model_version", "user_known", "history_events", "candidates", "degraded", "timings", "release", "retrieval_release", "fallback", "filter", "rules")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_MODEL_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_KNOWN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    items: Ids
    scores: _containers.RepeatedScalarFieldContainer[float]
    model: str
    model_version: str
    retrieval_model: str
    retrieval_model_version: str
    user_known: bool
    history_events: int
    candidates: int
    degraded: _containers.RepeatedScalarFieldContainer[Degradation]
    timings: Timings
    release: str
    retrieval_release: str
    fallback: Fallback
    filter: FilterReport
    rules: RulesReport
    def __init__(self, items: _Optional[_Union[Ids, _Mapping]] = ..., scores: _Optional[_Iterable[float]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., retrieval_model: _Optional[str] = ..., retrieval_model_version: _Optional[str] = ..., user_known: _Optional[bool] = ..., history_events: _Optional[int] = ..., candidates: _Optional[int] = ..., degraded: _Optional[_Iterable[_Union[Degradation, str]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., release: _Optional[str] = ..., retrieval_release: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., filter: _Optional[_Union[FilterReport, _Mapping]] = ..., rules: _Optional[_Union[RulesReport, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("convert_us", "store_us", "state_us", "encode_us", "wait_us", "retrieve_us", "user_graph_us", "rank_graph_us", "select_us", "total_us", "filter_us")
    CONVERT_US_FIELD_NUMBER: _ClassVar[int]
    STORE_US_FIELD_NUMBER: _ClassVar[int]
    STATE_US_FIELD_NUMBER: _ClassVar[int]
    ENCODE_US_FIELD_NUMBER: _ClassVar[int]
    WAIT_US_FIELD_NUMBER: _ClassVar[int]
    RETRIEVE_US_FIELD_NUMBER: _ClassVar[int]
    USER_GRAPH_US_FIELD_NUMBER: _ClassVar[int]
    RANK_GRAPH_US_FIELD_NUMBER: _ClassVar[int]
    SELECT_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    FILTER_US_FIELD_NUMBER: _ClassVar[int]
    convert_us: int
    store_us: int
    state_us: int
    encode_us: int
    wait_us: int
    retrieve_us: int
    user_graph_us: int
    rank_graph_us: int
    select_us: int
    total_us: int
    filter_us: int
    def __init__(self, convert_us: _Optional[int] = ..., store_us: _Optional[int] = ..., state_us: _Optional[int] = ..., encode_us: _Optional[int] = ..., wait_us: _Optional[int] = ..., retrieve_us: _Optional[int] = ..., user_graph_us: _Optional[int] = ..., rank_graph_us: _Optional[int] = ..., select_us: _Optional[int] = ..., total_us: _Optional[int] = ..., filter_us: _Optional[int] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("scores", "positions", "model", "model_version", "history_events", "degraded", "timings", "release", "filter", "rules")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    positions: _containers.RepeatedScalarFieldContainer[int]
    model: str
    model_version: str
    history_events: int
    degraded: _containers.RepeatedScalarFieldContainer[Degradation]
    timings: Timings
    release: str
    filter: FilterReport
    rules: RulesReport
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., positions: _Optional[_Iterable[int]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., history_events: _Optional[int] = ..., degraded: _Optional[_Iterable[_Union[Degradation, str]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., release: _Optional[str] = ..., filter: _Optional[_Union[FilterReport, _Mapping]] = ..., rules: _Optional[_Union[RulesReport, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "user", "item", "features", "time_ms", "max_events", "release", "list")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    model: str
    user: Id
    item: Id
    features: _containers.MessageMap[str, FeatureValue]
    time_ms: int
    max_events: int
    release: str
    list: RecommendRequest
    def __init__(self, model: _Optional[str] = ..., user: _Optional[_Union[Id, _Mapping]] = ..., item: _Optional[_Union[Id, _Mapping]] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., time_ms: _Optional[int] = ..., max_events: _Optional[int] = ..., release: _Optional[str] = ..., list: _Optional[_Union[RecommendRequest, _Mapping]] = ...) -> None: ...

class ListPlace(_message.Message):
    __slots__ = ("place", "place_by_score", "rules", "why")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PLACE_BY_SCORE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    place: int
    place_by_score: int
    rules: _containers.RepeatedScalarFieldContainer[int]
    why: str
    def __init__(self, place: _Optional[int] = ..., place_by_score: _Optional[int] = ..., rules: _Optional[_Iterable[int]] = ..., why: _Optional[str] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("name", "side", "ids", "numbers", "missing", "contribution", "standard_error", "leave_out")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    LEAVE_OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    side: Side
    ids: Ids
    numbers: _containers.RepeatedScalarFieldContainer[float]
    missing: bool
    contribution: float
    standard_error: float
    leave_out: float
    def __init__(self, name: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., numbers: _Optional[_Iterable[float]] = ..., missing: _Optional[bool] = ..., contribution: _Optional[float] = ..., standard_error: _Optional[float] = ..., leave_out: _Optional[float] = ...) -> None: ...

class ExplainedEvents(_message.Message):
    __slots__ = ("items", "timestamps_ms", "attributes", "leave_out", "shared_signatures", "attention")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Ids
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Ids, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_MS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    LEAVE_OUT_FIELD_NUMBER: _ClassVar[int]
    SHARED_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    items: Ids
    timestamps_ms: _containers.RepeatedScalarFieldContainer[int]
    attributes: _containers.MessageMap[str, Ids]
    leave_out: _containers.RepeatedScalarFieldContainer[float]
    shared_signatures: _containers.RepeatedScalarFieldContainer[int]
    attention: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, items: _Optional[_Union[Ids, _Mapping]] = ..., timestamps_ms: _Optional[_Iterable[int]] = ..., attributes: _Optional[_Mapping[str, Ids]] = ..., leave_out: _Optional[_Iterable[float]] = ..., shared_signatures: _Optional[_Iterable[int]] = ..., attention: _Optional[_Iterable[float]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("logit", "score", "base_logit", "contributions", "exact", "orders", "events", "history_events", "older_events", "older_leave_out", "signatures", "names", "time_ms", "runs", "model", "model_version", "release", "degraded", "list")
    class NamesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BASE_LOGIT_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    OLDER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    OLDER_LEAVE_OUT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    logit: float
    score: float
    base_logit: float
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    exact: bool
    orders: int
    events: ExplainedEvents
    history_events: int
    older_events: int
    older_leave_out: float
    signatures: int
    names: _containers.ScalarMap[int, str]
    time_ms: int
    runs: int
    model: str
    model_version: str
    release: str
    degraded: _containers.RepeatedScalarFieldContainer[Degradation]
    list: ListPlace
    def __init__(self, logit: _Optional[float] = ..., score: _Optional[float] = ..., base_logit: _Optional[float] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., exact: _Optional[bool] = ..., orders: _Optional[int] = ..., events: _Optional[_Union[ExplainedEvents, _Mapping]] = ..., history_events: _Optional[int] = ..., older_events: _Optional[int] = ..., older_leave_out: _Optional[float] = ..., signatures: _Optional[int] = ..., names: _Optional[_Mapping[int, str]] = ..., time_ms: _Optional[int] = ..., runs: _Optional[int] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., release: _Optional[str] = ..., degraded: _Optional[_Iterable[_Union[Degradation, str]]] = ..., list: _Optional[_Union[ListPlace, _Mapping]] = ...) -> None: ...
