"""FeatureSet: the only place that says what a feature is.

Offline samples, Redis bytes, ONNX inputs and the request encoder all derive from
one FeatureSet, so training and serving cannot disagree about it.

>>> genre = Categorical(name="genre", id_type="string")
>>> features = FeatureSet(
...     name="shop",
...     user_id=Categorical(name="user_id"),
...     item_id=Categorical(name="item_id"),
...     item=(genre,),
...     history=History(attributes=(genre,), max_events=500, recent=50),
... )
>>> features.tables()["genre"]
('genre',)
>>> FeatureSet.from_json(features.to_json()) == features
True
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from recsys.errors import InvalidInputError

IdType = Literal["int", "string"]
Storage = Literal["i64", "i32", "u8"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_RESERVED = frozenset({"timestamp", "arrival", "label", "logits", "scores"})
_FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A feature whose values are ids, embedded by table lookup.

    Args:
        name: lower-case identifier, unique within the user, item or context side.
        id_type: whether raw ids are integers or strings. A feature takes one of the two,
            so that an integer id can never collide with a string id.
        max_values: 1 for one id; more for a multi-valued feature, whose embeddings are averaged.
        table: features that name the same table share ids and embedding rows; default: its own name.
        storage: width of the id in a packed history event. ``u8`` and ``i32`` are for small
            enumerations (ratings, actions); ids out of range are refused, never wrapped.
    """

    name: str
    id_type: IdType = "int"
    max_values: int = 1
    table: str = ""
    storage: Storage = "i64"

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.table:
            _check_name(self.table)
        else:
            object.__setattr__(self, "table", self.name)
        _check_choice(self.name, "id_type", self.id_type, ("int", "string"))
        _check_choice(self.name, "storage", self.storage, ("i64", "i32", "u8"))
        if not 1 <= self.max_values <= 256:
            raise InvalidInputError(f"feature {self.name!r}: max_values is {self.max_values}; allowed: 1 to 256")
        if self.id_type == "string" and self.storage != "i64":
            raise InvalidInputError(
                f"feature {self.name!r}: string ids are 62-bit keys and need storage 'i64', not {self.storage!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A feature whose value is one finite float32. ``default`` stands in when it is missing."""

    name: str
    default: float = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        # NaN would also make a FeatureSet unequal to itself.
        if not abs(self.default) <= _FLOAT32_MAX:
            raise InvalidInputError(
                f"feature {self.name!r}: default is {self.default}; allowed: a finite float32 number"
            )


Feature = Categorical | Numeric


@dataclass(frozen=True, kw_only=True)
class History:
    """A user's behaviour sequence: item id, event time, arrival time, and attributes.

    Args:
        attributes: id features of an event. An attribute with the name of an item feature is
            compared with the candidate's value, and takes the item's stored value where it is not
            sent; any other (a rating, an action) is known only for past events.
        max_events: the store keeps at least this many of the newest events.
        recent: how many of the newest events a model reads as they are.
        ttl_s: seconds after the last append that added an event, at which the history expires,
            however old its events are; 0 for never.
    """

    attributes: tuple[Categorical, ...] = ()
    max_events: int = 1000
    recent: int = 50
    ttl_s: int = 0

    def __post_init__(self) -> None:
        # A packed event already has an "item" field.
        _check_unique("history", ("item", *(a.name for a in self.attributes)))
        for attribute in self.attributes:
            if attribute.max_values != 1:
                raise InvalidInputError(
                    f"history attribute {attribute.name!r}: max_values is {attribute.max_values}; "
                    "an event holds one value per attribute"
                )
        if not 1 <= self.recent <= self.max_events:
            raise InvalidInputError(f"history: recent is {self.recent}; allowed: 1 to max_events ({self.max_events})")
        if self.ttl_s < 0:
            raise InvalidInputError(f"history: ttl_s is {self.ttl_s}; allowed: 0 (never) or more")


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Everything a model may look at: the user, the item, the request's context, the history.

    Raises:
        InvalidInputError: a name is malformed or used twice, or two features that share a
            table disagree about their id type.
    """

    name: str
    user_id: Categorical
    item_id: Categorical
    user: tuple[Feature, ...] = ()
    item: tuple[Feature, ...] = ()
    context: tuple[Feature, ...] = ()
    history: History | None = field(default_factory=History)

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unique("user and context", (f.name for f in (self.user_id, *self.user, *self.context)))
        _check_unique("item", (f.name for f in (self.item_id, *self.item)))
        if self.history is not None:
            _check_unique("history", (f.name for f in (self.item_id, *self.history.attributes)))
            items = {f.name: f for f in self.item}
            for attribute in self.history.attributes:
                _check_comparable(attribute, items.get(attribute.name, attribute))
        for entity_id in (self.user_id, self.item_id):
            if entity_id.max_values != 1:
                raise InvalidInputError(
                    f"feature {entity_id.name!r}: max_values is {entity_id.max_values}; a user or an item has one id"
                )
        id_types: dict[str, tuple[str, IdType]] = {}
        for feature in self.categoricals():
            seen, id_type = id_types.setdefault(feature.table, (feature.name, feature.id_type))
            if id_type != feature.id_type:
                raise InvalidInputError(
                    f"features {seen!r} and {feature.name!r} share table {feature.table!r} but one takes "
                    f"{id_type} ids and the other {feature.id_type} ids"
                )

    def categoricals(self) -> tuple[Categorical, ...]:
        """Every categorical feature: user side, item side, context, history attributes, in that order."""
        attributes = self.history.attributes if self.history else ()
        both = (self.user_id, *self.user, self.item_id, *self.item, *self.context, *attributes)
        return tuple(f for f in both if isinstance(f, Categorical))

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Embedding table name -> names of the features that look ids up in it."""
        tables: dict[str, tuple[str, ...]] = {}
        for feature in self.categoricals():
            names = tables.get(feature.table, ())
            if feature.name not in names:
                tables[feature.table] = (*names, feature.name)
        return tables

    def to_json(self) -> str:
        """Canonical JSON: equal FeatureSets give equal text."""
        return json.dumps(_to_dict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> FeatureSet:
        """Inverse of :meth:`to_json`.

        Raises:
            InvalidInputError: the text is not a FeatureSet.
        """
        try:
            return _from_dict(json.loads(text))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"not a FeatureSet in JSON: {error}") from error

    def fingerprint(self) -> str:
        """64 bits of SHA-256 over :meth:`to_json`, as 16 hex digits."""
        return fingerprint(self.to_json())


def fingerprint(text: str) -> str:
    """64 bits of SHA-256 over UTF-8 text, as 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _feature_to_dict(feature: Feature) -> dict[str, Any]:
    return {"kind": "categorical" if isinstance(feature, Categorical) else "numeric", **asdict(feature)}


def _feature_from_dict(values: dict[str, Any]) -> Feature:
    kinds: dict[str, type[Feature]] = {"categorical": Categorical, "numeric": Numeric}
    return kinds[values.pop("kind")](**values)


def _categorical_from_dict(values: dict[str, Any]) -> Categorical:
    feature = _feature_from_dict(values)
    if not isinstance(feature, Categorical):
        raise TypeError(f"{feature.name!r} must be categorical")
    return feature


def _to_dict(features: FeatureSet) -> dict[str, Any]:
    history = features.history
    return {
        "name": features.name,
        "user_id": _feature_to_dict(features.user_id),
        "item_id": _feature_to_dict(features.item_id),
        "user": [_feature_to_dict(f) for f in features.user],
        "item": [_feature_to_dict(f) for f in features.item],
        "context": [_feature_to_dict(f) for f in features.context],
        "history": None
        if history is None
        else {**asdict(history), "attributes": [_feature_to_dict(a) for a in history.attributes]},
    }


def _from_dict(values: dict[str, Any]) -> FeatureSet:
    if unknown := sorted(set(values) - {f.name for f in fields(FeatureSet)}):
        raise TypeError(f"unknown field {unknown[0]!r}")
    history = values["history"]
    if history is not None:
        attributes = tuple(_categorical_from_dict(a) for a in history.pop("attributes"))
        history = History(attributes=attributes, **history)
    return FeatureSet(
        name=values["name"],
        user_id=_categorical_from_dict(values["user_id"]),
        item_id=_categorical_from_dict(values["item_id"]),
        user=tuple(_feature_from_dict(f) for f in values["user"]),
        item=tuple(_feature_from_dict(f) for f in values["item"]),
        context=tuple(_feature_from_dict(f) for f in values["context"]),
        history=history,
    )


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.match(name) or name in _RESERVED:
        raise InvalidInputError(
            f"feature name {name!r}: must be lower-case letters, digits and '_', start with a letter, "
            f"have at most 63 characters, and not be one of {', '.join(sorted(_RESERVED))}"
        )


def _check_comparable(attribute: Categorical, item: Feature) -> None:
    """An attribute with the name of an item feature is the same thing, seen in the past."""
    same = isinstance(item, Categorical) and (item.table, item.max_values) == (attribute.table, 1)
    if not same:
        raise InvalidInputError(
            f"history attribute {attribute.name!r} has the name of an item feature, but is not of its kind: "
            f"allowed: a single-valued item feature of table {attribute.table!r}, or another name"
        )


def _check_choice(feature: str, option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInputError(f"feature {feature!r}: {option} is {value!r}; allowed: {', '.join(allowed)}")


def _check_unique(side: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInputError(f"{side} feature {name!r} is declared twice")
        seen.add(name)
