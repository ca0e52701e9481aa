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
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from recsys.errors import InvalidInputError, nearest
from recsys.features.trending import Trending

IdType = Literal["int", "string"]
Storage = Literal["i64", "i32", "u8"]
Transform = Literal["auto", "standardise", "signed_log", "quantile", "none"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}\Z")
_RESERVED = frozenset({"timestamp", "arrival", "label", "logits", "scores"})
_FLOAT32_MAX = 3.4028234663852886e38
_MAX_EVENTS = 1_000_000
_MAX_SECONDS = 100 * 366 * 86_400


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A feature whose values are ids, embedded by table lookup.

    Args:
        name: identifier, that of its column; unique within the user, item or context side.
        id_type: whether raw ids are integers or strings. A feature takes one of the two,
            so that an integer id can never collide with a string id.
        max_values: 1 for one id; more for a multi-valued feature, whose embeddings are averaged.
        table: features that name the same table share ids and embedding rows; default: its own name.
        storage: width of the id in a packed history event. ``u8`` and ``i32`` are for small
            enumerations (ratings, actions); ids out of range are refused, never wrapped.
        filterable: requests may filter items by it: a server keeps the values of all items in memory
            (:meth:`FeatureSet.filterable`).
    """

    name: str
    id_type: IdType = "int"
    max_values: int = 1
    table: str = ""
    storage: Storage = "i64"
    filterable: bool = False

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
    """A feature whose value is one finite float32. It is stored, logged and sent as it is; a model transforms it first.

    Args:
        name: identifier, that of its column; unique within the user, item or context side.
        default: stands for a missing value, and is read as if it had been given. None: a missing value is stored
            as NaN, and a model reads it as the centre of what it was trained on.
        transform: ``standardise``, ``signed_log`` (logarithm of the magnitude, then standardise), ``quantile``
            (the number of its quantile bucket, then standardise), ``none``, or ``auto``: chosen from the training
            samples (``number_transform.py``).
        filterable: as of a :class:`Categorical`.
    """

    name: str
    default: float | None = None
    transform: Transform = "auto"
    filterable: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        # NaN would also make a FeatureSet unequal to itself.
        if self.default is not None and not abs(self.default) <= _FLOAT32_MAX:
            raise InvalidInputError(
                f"feature {self.name!r}: default is {self.default}; allowed: a finite float32 number, or none for a "
                "missing value that stays missing"
            )
        _check_choice(self.name, "transform", self.transform, get_args(Transform))

    @property
    def missing(self) -> float:
        """The stored value of a missing one: the default, or NaN."""
        return math.nan if self.default is None else self.default


Feature = Categorical | Numeric
Made = TypeVar("Made")

USER, ITEM = "user", "item"
"""Names of the two entities that every FeatureSet has."""


@dataclass(frozen=True, kw_only=True)
class History:
    """A user's behaviour sequence: item id, event time, arrival time, and attributes.

    At time T a model sees the events with a timestamp before T that had arrived by T, and are not
    older than ``max_age_s``: the newest ``recent`` of them. Training samples and live requests follow
    that one rule (``features/history/rules.py``).

    Args:
        attributes: id features of an event. An attribute with the name of an item feature is
            compared with the candidate's value, and takes the item's stored value where it is not
            sent; any other (a rating, an action) is known only for past events. New ones are added at the
            end: events stored before then read as missing it.
        max_events: the store keeps at least this many of the newest events.
        max_age_s: an event counts for this many seconds after its timestamp; 0 for ever.
        recent: how many of the newest events a model reads as they are.
        identity: what tells two events of one user and timestamp apart: ``"item"`` and names of attributes.
            An event that equals another in these is a repetition, and the one that arrived first counts.
            Default: the item and every attribute that is not taken from the item.
        trending: time-decayed counts of events by item that the store keeps; None: none.
        ttl_s: seconds after the last append that added an event, at which the history is deleted;
            0 for never. At least ``max_age_s``, which must be set, so that nothing a model
            still sees is ever deleted.
    """

    attributes: tuple[Categorical, ...] = ()
    max_events: int = 1000
    max_age_s: int = 0
    recent: int = 50
    identity: tuple[str, ...] | None = None
    ttl_s: int = 0
    trending: Trending | None = None

    def __post_init__(self) -> None:
        # A packed event already has an "item" field.
        _check_unique("history", ("item", *(a.name for a in self.attributes)))
        for attribute in self.attributes:
            if not isinstance(attribute, Categorical):
                raise InvalidInputError(
                    f"history attribute {attribute.name!r} is numeric; an event holds ids. Give its bucket as one: "
                    f'{{"name": "{attribute.name}_bucket", "storage": "u8"}} takes the numbers 0 to 254, such as '
                    f"min(254, floor(8 log2(1 + {attribute.name}))) (docs/guides/features.md, Numbers)"
                )
            if attribute.max_values != 1:
                raise InvalidInputError(
                    f"history attribute {attribute.name!r}: max_values is {attribute.max_values}; "
                    f"an event holds one value per attribute. {_as_several(attribute)}"
                )
        if not 1 <= self.recent <= self.max_events <= _MAX_EVENTS:
            raise InvalidInputError(
                f"history: recent is {self.recent} and max_events {self.max_events}; "
                f"allowed: 1 <= recent <= max_events <= {_MAX_EVENTS:,}"
            )
        for name, seconds in (("max_age_s", self.max_age_s), ("ttl_s", self.ttl_s)):
            if not 0 <= seconds <= _MAX_SECONDS:
                raise InvalidInputError(f"history: {name} is {seconds}; allowed: 0 (never) to {_MAX_SECONDS:,}")
        if self.ttl_s and not 0 < self.max_age_s <= self.ttl_s:
            raise InvalidInputError(
                f"history: ttl_s is {self.ttl_s} and max_age_s {self.max_age_s}; a history that expires needs "
                "max_age_s from 1 to ttl_s, or serving would forget events that training saw"
            )
        names = ("item", *(a.name for a in self.attributes))
        if self.trending is not None and self.trending.attribute and self.trending.attribute not in names[1:]:
            given = self.trending.attribute
            raise InvalidInputError(f"history: trending weighs by attribute {given!r}: {nearest(given, names[1:])}")
        for name in self.identity or ():
            if name not in names:
                raise InvalidInputError(f"history: identity names {name!r}: {nearest(name, names)}")
        if self.identity is not None:
            _check_unique("history identity", self.identity)


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something with an id and stored features. ``user`` and ``item`` are entities; others may be declared.

    Others (a shop, a campaign) are stored, loaded and read like the two; models read users, items,
    context and history.
    """

    name: str
    id: Categorical
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unique(self.name, (f.name for f in (self.id, *self.features)))
        if self.id.max_values != 1:
            raise InvalidInputError(
                f"feature {self.id.name!r}: max_values is {self.id.max_values}; a {self.name} has one id"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Everything a model may look at: the user, the item, the request's context, the history.

    Args:
        name: identifier of the set.
        user_id: ids of users; its name is their column in a log.
        item_id: ids of items; the same.
        user: features of a user, kept in the store.
        item: features of an item, kept in the store.
        context: features that a request brings, and the store does not keep.
        history: what is kept of a user's events; None: nothing.
        entities: further things that the store keeps features of, beside users and items.

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
    entities: tuple[Entity, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unique("user and context", (f.name for f in (self.user_id, *self.user, *self.context)))
        _check_unique("entity", ("user", "item", *(e.name for e in self.entities)))
        for side in (USER, ITEM):
            self.entity(side)
        if self.history is not None:
            _check_unique("history", (f.name for f in (self.item_id, *self.history.attributes)))
            items = {f.name: f for f in self.item}
            for attribute in self.history.attributes:
                _check_comparable(attribute, items.get(attribute.name, attribute))
        id_types: dict[str, tuple[str, IdType]] = {}
        _check_case(self)
        _check_filterable(self)
        for feature in self.categoricals():
            seen, id_type = id_types.setdefault(feature.table, (feature.name, feature.id_type))
            if id_type != feature.id_type:
                raise InvalidInputError(
                    f"features {seen!r} and {feature.name!r} share table {feature.table!r} but one takes "
                    f"{id_type} ids and the other {feature.id_type} ids"
                )

    def entity(self, name: str) -> Entity:
        """An entity by name: ``"user"``, ``"item"`` or one of ``entities``.

        Raises:
            InvalidInputError: there is none of that name.
        """
        if name == USER:
            return Entity(name=USER, id=self.user_id, features=self.user)
        if name == ITEM:
            return Entity(name=ITEM, id=self.item_id, features=self.item)
        for entity in self.entities:
            if entity.name == name:
                return entity
        raise InvalidInputError(f"unknown entity {name!r}: {nearest(name, self.entity_names())}")

    def entity_names(self) -> tuple[str, ...]:
        """``user``, ``item``, and the others in declared order."""
        return (USER, ITEM, *(e.name for e in self.entities))

    def item_entities(self) -> tuple[Entity, ...]:
        """The item, and the declared entities whose ids are the item's: they share its table of ids."""
        return (self.entity(ITEM), *(e for e in self.entities if e.id.table == self.item_id.table))

    def filterable(self) -> tuple[tuple[str, Feature], ...]:
        """Features that requests may filter items by, each with its entity: those of the item, and of entities that
        have the item's ids. No model reads the latter, and each is put by itself: for what changes often, as stock."""
        return tuple((entity.name, f) for entity in self.item_entities() for f in entity.features if f.filterable)

    def categoricals(self) -> tuple[Categorical, ...]:
        """Every categorical feature: user side, item side, context, history attributes, in that order."""
        attributes = self.history.attributes if self.history else ()
        both = (self.user_id, *self.user, self.item_id, *self.item, *self.context, *attributes)
        return tuple(f for f in both if isinstance(f, Categorical))

    def event_features(self) -> tuple[Categorical, ...]:
        """Features of a past event: the item id and the history's attributes; none without a history."""
        return () if self.history is None else (self.item_id, *self.history.attributes)

    def stand_ins(self) -> tuple[Categorical, ...]:
        """History attributes that candidates do not have (a rating)."""
        items = {f.name for f in self.item}
        return tuple(a for a in self.event_features()[1:] if a.name not in items)

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
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"not a FeatureSet in JSON: {error}") from error
        try:
            return _from_dict(values)
        except KeyError as error:
            raise InvalidInputError(f"not a FeatureSet in JSON: {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise InvalidInputError(f"not a FeatureSet in JSON: {error}") from error

    def fingerprint(self) -> str:
        """64 bits of SHA-256 over :meth:`to_json`, as 16 hex digits."""
        return fingerprint(self.to_json())


def fingerprint(text: str) -> str:
    """64 bits of SHA-256 over UTF-8 text, as 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _feature_to_dict(feature: Feature) -> dict[str, Any]:
    values = {"kind": "categorical" if isinstance(feature, Categorical) else "numeric", **asdict(feature)}
    # Fingerprints of FeatureSets from before there were these stay.
    if values.get("transform") == "auto":
        del values["transform"]
    if not values["filterable"]:
        del values["filterable"]
    return values


def _feature_from_dict(values: Any, where: str) -> Feature:
    kinds: dict[str, type[Feature]] = {"categorical": Categorical, "numeric": Numeric}
    if not isinstance(values, dict) or "name" not in values:
        raise InvalidInputError(
            f"not a FeatureSet in JSON: {where} is {json.dumps(values)[:80]}; expected an object with a name: "
            f'{{"name": {json.dumps(values if is_name(values) else "NAME")}}}'
        )
    kind = values.pop("kind", "categorical")
    if kind not in kinds:
        raise InvalidInputError(f"feature {values.get('name')!r}: kind is {kind!r}; allowed: {', '.join(kinds)}")
    return _made(kinds[kind], values)


def _categorical_from_dict(values: Any, where: str) -> Categorical:
    feature = _feature_from_dict(values, where)
    if not isinstance(feature, Categorical):
        raise TypeError(f"{feature.name!r} must be categorical")
    return feature


def _features_from_list(values: Any, where: str) -> tuple[Feature, ...]:
    listed = _checked_json(values, list, where)
    return tuple(_feature_from_dict(f, f"{where}[{i}]") for i, f in enumerate(listed))


def _checked_json(values: Any, kind: type[Made], where: str) -> Made:
    if not isinstance(values, kind):
        expected = "a list" if kind is list else "an object"
        raise InvalidInputError(f"not a FeatureSet in JSON: {where} is {json.dumps(values)[:80]}; expected {expected}")
    return values


def _to_dict(features: FeatureSet) -> dict[str, Any]:
    history = features.history
    return {
        "name": features.name,
        "user_id": _feature_to_dict(features.user_id),
        "item_id": _feature_to_dict(features.item_id),
        "user": [_feature_to_dict(f) for f in features.user],
        "item": [_feature_to_dict(f) for f in features.item],
        "context": [_feature_to_dict(f) for f in features.context],
        "history": None if history is None else _history_to_dict(history),
        "entities": [
            {"name": e.name, "id": _feature_to_dict(e.id), "features": [_feature_to_dict(f) for f in e.features]}
            for e in features.entities
        ],
    }


def _history_to_dict(history: History) -> dict[str, Any]:
    values = {**asdict(history), "attributes": [_feature_to_dict(a) for a in history.attributes]}
    if history.trending is None:
        del values["trending"]  # fingerprints of FeatureSets from before there was any stay
    return values


def _from_dict(values: dict[str, Any]) -> FeatureSet:
    read: dict[str, Any] = dict(_checked_json(values, dict, "it"))
    for name in ("user_id", "item_id"):
        read[name] = _categorical_from_dict(values[name], name)
    for name in ("user", "item", "context"):
        read[name] = _features_from_list(values.get(name, []), name)
    history = values.get("history")
    if history is not None:
        attributes = _features_from_list(
            _checked_json(history, dict, "history").pop("attributes", []), "history.attributes"
        )
        if history.get("identity") is not None:
            history["identity"] = tuple(history["identity"])
        if history.get("trending") is not None:
            given = dict(_checked_json(history["trending"], dict, "history.trending"))
            listed = _checked_json(given.get("weights", []), list, "history.trending.weights")
            given["weights"] = tuple((value, weight) for value, weight in listed)
            history["trending"] = _made(Trending, given)
        history = _made(History, {"attributes": attributes, **history})
    read["history"] = history
    read["entities"] = tuple(
        _entity_from_dict(_checked_json(e, dict, f"entities[{i}]"), f"entities[{i}]")
        for i, e in enumerate(_checked_json(values.get("entities", []), list, "entities"))
    )
    return _made(FeatureSet, read)


def _entity_from_dict(values: dict[str, Any], where: str) -> Entity:
    id_feature = _categorical_from_dict(values["id"], f"{where}.id")
    features = _features_from_list(values["features"], f"{where}.features")
    return _made(Entity, {**values, "id": id_feature, "features": features})


def _made(kind: type[Made], values: dict[str, Any]) -> Made:
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise InvalidInputError(f"{kind.__name__} has no field {name!r}: {nearest(name, names)}")
    return kind(**values)


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidInputError(
            f"feature name {name!r}: must be letters (a to z), digits and '_', start with a letter, "
            f"have at most 63 characters, and not be one of {', '.join(sorted(_RESERVED))}"
        )


def is_name(name: object) -> bool:
    """True if a feature may have this name.

    >>> is_name("userId"), is_name("user id"), is_name("Label")
    (True, False, False)
    """
    return isinstance(name, str) and bool(_NAME.match(name)) and name.lower() not in _RESERVED


def _check_case(features: FeatureSet) -> None:
    """Names that differ in capitals alone are refused: engines and some file systems take them for one."""
    others = (
        f for name in features.entity_names() for f in (features.entity(name).id, *features.entity(name).features)
    )
    seen: dict[str, str] = {}
    for feature in (*features.categoricals(), *features.context, *others):
        for name in (feature.name, feature.table if isinstance(feature, Categorical) else feature.name):
            if seen.setdefault(name.lower(), name) != name:
                raise InvalidInputError(
                    f"names {seen[name.lower()]!r} and {name!r} differ in capitals alone; rename one"
                )


def _check_filterable(features: FeatureSet) -> None:
    """Only items are filtered, by features of different names."""
    of_items = features.item_entities()
    for entity in of_items:
        if entity.id.id_type != features.item_id.id_type:
            raise InvalidInputError(
                f"entity {entity.name!r} has the item's ids, of table {features.item_id.table!r}, but takes "
                f"{entity.id.id_type} ids and the item {features.item_id.id_type} ids"
            )
    attributes = () if features.history is None else features.history.attributes
    declared = [
        ("ids", (features.user_id, features.item_id)),
        ("the user", features.user),
        ("the context", features.context),
        ("the history", attributes),
        *((f"entity {e.name!r}", (e.id, *e.features)) for e in features.entities if e not in of_items),
    ]
    for where, those in declared:
        for feature in those:
            if feature.filterable:
                raise InvalidInputError(
                    f"feature {feature.name!r} of {where} is filterable; allowed: features of the item, and of "
                    f"entities whose ids are the item's (of table {features.item_id.table!r})"
                )
    _check_unique("filterable", (f.name for _, f in features.filterable()))


def _check_comparable(attribute: Categorical, item: Feature) -> None:
    """An attribute with the name of an item feature is the same thing, seen in the past."""
    if isinstance(item, Categorical) and item.max_values != 1:
        raise InvalidInputError(
            f"history attribute {attribute.name!r} has the name of an item feature of up to {item.max_values} values, "
            f"and an event holds one value per attribute. {_as_several(item)}"
        )
    same = isinstance(item, Categorical) and item.table == attribute.table
    if not same:
        raise InvalidInputError(
            f"history attribute {attribute.name!r} has the name of an item feature, but is not of its kind: "
            f"allowed: a single-valued item feature of table {attribute.table!r}, or another name"
        )


def _as_several(feature: Categorical) -> str:
    """The form in which an event holds several values of one feature."""
    names = [f"{feature.name}_{number}"[-63:] for number in (1, 2)]
    return (
        f"Declare {names[0]}, {names[1]} and so on, one value each and all with table {feature.table!r}, as item "
        f"features and as history attributes; {feature.name!r} itself can stay an item feature "
        "(docs/guides/features.md, several values of what was seen)"
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
