"""Extension: FeatureSets that one store can hold at a time, because one of them only adds to the others.

What was added at the end is missing in what was stored before, and is passed over by who does not know it
(``docs/specs/redis_format.md``). So programs of both FeatureSets read the same bytes, if they read by the wider one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recsys.errors import InvalidInputError
from recsys.features.changes import changes
from recsys.features.feature_set import FeatureSet, History, Numeric


def extension_problem(wider: FeatureSet, narrower: FeatureSet) -> str:
    """Say what keeps a store of ``wider`` from holding what ``narrower`` stores and reads; empty if nothing does.

    Allowed are features, attributes and entities added at the end, and whatever is not stored: the context, tables,
    transforms, and what a model sees of a history.

    >>> from recsys.features.feature_set import Categorical
    >>> old = FeatureSet(name="shop", user_id=Categorical(name="u"), item_id=Categorical(name="i"))
    >>> new = replace(old, item=(Categorical(name="brand"),))
    >>> extension_problem(new, old), extension_problem(old, new)
    ('', 'item feature brand removed')
    """
    return "; ".join(_problems(wider, narrower))


def ids_problem(retrieval: FeatureSet, ranking: FeatureSet, *, retrieval_model: str, ranking_model: str) -> str:
    """Say in which ids two models that answer together differ, integers or strings; empty: in none."""
    for side, ours, theirs in (
        ("users", retrieval.user_id, ranking.user_id),
        ("items", retrieval.item_id, ranking.item_id),
    ):
        if ours.id_type != theirs.id_type:
            return (
                f"retrieval model {retrieval_model!r} names {side} by {ours.id_type} ids ({ours.name!r}), ranking "
                f"model {ranking_model!r} by {theirs.id_type} ids ({theirs.name!r})"
            )
    return ""


def widest(features: Mapping[str, FeatureSet], *, stored: FeatureSet | None = None) -> FeatureSet:
    """The FeatureSet of a store that all of these share: the first that extends all others.

    Its histories keep as much, and for as long, as any of them asks for.

    Args:
        features: by what declares them, which errors name; at least one.
        stored: the store holds this, whatever became of who declared it.

    Raises:
        InvalidInputError: none extends all others; it says which two do not fit, and what differs.

    >>> from recsys.features.feature_set import Categorical
    >>> old = FeatureSet(name="shop", user_id=Categorical(name="u"), item_id=Categorical(name="i"))
    >>> new = replace(old, item=(Categorical(name="brand"),))
    >>> widest({"release 1": old, "release 2": new}) == new
    True
    """
    named = features if stored is None else {**features, "what is stored": stored}
    for wider in named.values():
        if not any(extension_problem(wider, other) for other in named.values()):
            return _with_retention(wider, [other.history for other in features.values() if other.history is not None])
    raise InvalidInputError(_conflict(features if stored is None else {"what is stored": stored, **features}))


def stored_as(features: FeatureSet, wider: FeatureSet) -> FeatureSet:
    """The FeatureSet by which a release of ``features`` reads a store of ``wider``: its bytes, the release's policy.

    ``wider`` extends ``features``. A part of which the release reads nothing is left out. The context is no part of it.
    """
    history = None
    if features.history is not None:
        assert wider.history is not None
        history = replace(wider.history, recent=features.history.recent, max_age_s=features.history.max_age_s, ttl_s=0)
    return replace(
        wider,
        user=wider.user if features.user else (),
        item=wider.item if features.item else (),
        context=(),
        history=history,
    )


def _problems(wider: FeatureSet, narrower: FeatureSet) -> Iterator[str]:
    yield from (change.what for change in changes(narrower, wider) if change.store == "reload")
    if narrower.history is not None and wider.history is None:
        yield "history removed"
    for name in narrower.entity_names():
        if name not in wider.entity_names():
            yield f"entity {name} removed"
            continue
        later = {f.name: f for f in wider.entity(name).features}
        for old in narrower.entity(name).features:
            new = later.get(old.name)
            if isinstance(old, Numeric) and isinstance(new, Numeric) and old.default != new.default:
                # Stored in place of a missing value: one row cannot hold two.
                yield f"{name} feature {old.name}: default {old.default} -> {new.default}: stored for a missing value"


def _conflict(features: Mapping[str, FeatureSet]) -> str:
    """The first two that do not fit."""
    named = list(features.items())
    for place, (name, new) in enumerate(named):
        for other, old in named[:place]:
            problem = extension_problem(new, old)
            if problem and extension_problem(old, new):
                return f"{name} and {other} cannot share a store: {problem}"
    ends = ", ".join(features)
    return f"{ends} cannot share a store: each has a feature that another lacks; one has to have all of them"


def _with_retention(wider: FeatureSet, histories: Sequence[History]) -> FeatureSet:
    """A FeatureSet whose history keeps what each of the others would keep; 0 is for ever."""
    if wider.history is None or not histories:
        return wider
    ages, ends = [h.max_age_s for h in histories], [h.ttl_s for h in histories]
    history = replace(
        wider.history,
        max_events=max(h.max_events for h in histories),
        recent=max(h.recent for h in histories),
        max_age_s=max(ages) if all(ages) else 0,
        ttl_s=max(ends) if all(ends) else 0,
        # Of several releases the first one's: a store keeps counts of one kind.
        trending=next((h.trending for h in histories if h.trending is not None), None),
    )
    return replace(wider, history=history)
