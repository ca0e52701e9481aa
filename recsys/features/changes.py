"""Changes from one FeatureSet to another, and what each takes: a backfill of the store, a new model, or neither.

The store reads what was stored before a feature was *added at the end*; any other change of what is
stored needs its data loaded anew, under another name of the FeatureSet or after the old keys are gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from recsys.features.feature_set import Categorical, Entity, Feature, FeatureSet
from recsys.features.history.rules import identity_fields

StoreNeed = Literal["nothing", "backfill", "reload"]
"""``backfill``: what is stored stays readable, and lacks the new until it is loaded again. ``reload``: what is
stored is refused."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference between two FeatureSets.

    Attributes:
        what: the difference, in words.
        store: what the feature store needs.
        model: whether models must be trained anew.
    """

    what: str
    store: StoreNeed
    model: bool


def changes(old: FeatureSet, new: FeatureSet) -> tuple[Change, ...]:
    """Every difference, in declared order; empty for equal FeatureSets."""
    return tuple(_changes(old, new))


def store_need(found: Sequence[Change]) -> StoreNeed:
    """The most that any of the changes needs.

    >>> store_need([])
    'nothing'
    """
    order: tuple[StoreNeed, ...] = ("nothing", "backfill", "reload")
    return order[max((order.index(change.store) for change in found), default=0)]


def _changes(old: FeatureSet, new: FeatureSet) -> Iterator[Change]:
    if old.name != new.name:
        yield Change(what=f"name: {old.name} -> {new.name}: other keys in the store", store="reload", model=True)
    for name in ("user", "item"):
        yield from _entity_changes(old.entity(name), new.entity(name), read_by_models=True)
    yield from _context_changes(old.context, new.context)
    yield from _history_changes(old, new)
    before, after = ({e.name: e for e in side.entities} for side in (old, new))
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            yield Change(what=f"entity {name} added", store="backfill", model=False)
        elif name not in after:
            yield Change(what=f"entity {name} removed", store="nothing", model=False)
        else:
            yield from _entity_changes(before[name], after[name], read_by_models=False)


def _entity_changes(old: Entity, new: Entity, *, read_by_models: bool) -> Iterator[Change]:
    yield from _id_changes(f"{old.name} id", old.id, new.id, read_by_models=read_by_models)
    yield from _list_changes(old.name, old.features, new.features, read_by_models=read_by_models)


def _id_changes(where: str, old: Categorical, new: Categorical, *, read_by_models: bool) -> Iterator[Change]:
    if old.id_type != new.id_type:
        what = f"{where}: id_type {old.id_type} -> {new.id_type}: other keys"
        yield Change(what=what, store="reload", model=read_by_models)
    if old.name != new.name:
        yield Change(what=f"{where}: {old.name} -> {new.name}", store="nothing", model=read_by_models)
    if old.table != new.table:
        yield Change(what=f"{where}: table {old.table} -> {new.table}", store="nothing", model=read_by_models)


def _list_changes(
    where: str, old: Sequence[Feature], new: Sequence[Feature], *, read_by_models: bool = True, packed: bool = False
) -> Iterator[Change]:
    """Changes of features that are stored one after another; ``packed``: with their ``storage``'s width."""
    names, later = [f.name for f in old], [f.name for f in new]
    at_the_end = later[: len(names)] == names
    for name in later:
        if name not in names:
            need: StoreNeed = "backfill" if at_the_end else "reload"
            place = "at the end" if at_the_end else "not at the end"
            yield Change(what=f"{where} feature {name} added {place}", store=need, model=read_by_models)
    for name in names:
        if name not in later:
            yield Change(what=f"{where} feature {name} removed", store="reload", model=read_by_models)
    if sorted(names) == sorted(later) and names != later:
        yield Change(what=f"{where} features in another order", store="reload", model=False)
    now = {f.name: f for f in new}
    for feature in old:
        if feature.name in now and feature != now[feature.name]:
            yield _feature_change(where, feature, now[feature.name], read_by_models=read_by_models, packed=packed)


def _feature_change(where: str, old: Feature, new: Feature, *, read_by_models: bool, packed: bool) -> Change:
    if replace(old, filterable=new.filterable) == new:
        what = f"{where} feature {old.name}: {_differences(old, new)}"
        return Change(what=what, store="nothing", model=False)
    if not isinstance(old, Categorical) and not isinstance(new, Categorical):
        what = f"{where} feature {old.name}: {_differences(old, new)}"
        if old.default == new.default:
            return Change(what=what, store="nothing", model=read_by_models)
        return Change(what=f"{what}: stored rows hold the old default", store="backfill", model=read_by_models)
    what = f"{where} feature {old.name}: {_differences(old, new)}"
    same_bytes = (
        isinstance(old, Categorical)
        and isinstance(new, Categorical)
        and replace(old, table=new.table, storage=old.storage if packed else new.storage, filterable=new.filterable)
        == new
    )
    return Change(what=what, store="nothing" if same_bytes else "reload", model=read_by_models)


def _context_changes(old: Sequence[Feature], new: Sequence[Feature]) -> Iterator[Change]:
    before, after = ({f.name: f for f in side} for side in (old, new))
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            how = "added" if name not in before else "removed" if name not in after else "changed"
            yield Change(what=f"context feature {name} {how}", store="nothing", model=True)


def _history_changes(old: FeatureSet, new: FeatureSet) -> Iterator[Change]:
    if old.history is None or new.history is None:
        if old.history is not new.history:
            added = old.history is None
            what = f"history {'added' if added else 'removed'}"
            yield Change(what=what, store="backfill" if added else "nothing", model=True)
        return
    yield from _list_changes("history", old.history.attributes, new.history.attributes, packed=True)
    if old.history.attributes == new.history.attributes and identity_fields(old) != identity_fields(new):
        what = f"history identity: {', '.join(identity_fields(old))} -> {', '.join(identity_fields(new))}"
        yield Change(what=what, store="backfill", model=True)
    if old.history.trending != new.history.trending:
        yield Change(what="history trending: other counts, which begin at 0", store="nothing", model=False)
    for field in ("max_events", "max_age_s", "recent", "ttl_s"):
        before, after = getattr(old.history, field), getattr(new.history, field)
        if before != after:
            # 0 is for ever. What was trimmed, or not let in, comes back with a backfill only.
            grown = field in ("max_events", "max_age_s") and (after or float("inf")) > (before or float("inf"))
            yield Change(
                what=f"history {field}: {before:,} -> {after:,}",
                store="backfill" if grown else "nothing",
                model=field in ("recent", "max_age_s"),
            )


def _differences(old: Feature, new: Feature) -> str:
    if type(old) is not type(new):
        return f"{type(old).__name__.lower()} -> {type(new).__name__.lower()}"
    pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(old)]
    return ", ".join(f"{name} {before} -> {after}" for name, before, after in pairs if before != after)
