"""Positive samples of a prepared log as interactions: models that rank all items learn from the log of its ranking
models, and have its ids, names and FeatureSet.

Legend: ``S`` samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.histories import UserEvents, histories_before
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import (
    VALIDATION_SHARE,
    Interactions,
    Pairs,
    hold_out,
    make_pairs,
    unused_share,
    without,
)
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.since import newest_since
from recsys.errors import ConfigError, DataFileError, nearest
from recsys.features.feature_set import Categorical
from recsys.features.hashing import integer_keys, string_keys

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class PairRule:
    """Rule that makes pairs of samples.

    Attributes:
        validation_share: of each user's training pairs that are held out, where the data has no validation part;
            otherwise without effect, which a note says.
        since: train only on pairs with an event from then on (:func:`recsys.data.samples.since.since_ms`); empty: all.
        action: the history attribute, or the context feature, that says what a user did; empty: none is looked at.
        action_weights: value of ``action`` -> the weight of its pairs; 0: no positive. Others weigh 1. A pair has the
            largest weight of its events.
    """

    validation_share: float = VALIDATION_SHARE
    since: str = ""
    action: str = ""
    action_weights: Mapping[str, float] = field(default_factory=dict)


def positive_pairs(dataset: Dataset, rule: PairRule, *, source: str) -> Interactions:
    """Users and items of samples labelled 1, in the parts of the dataset's split; a pair stays in its first part.

    Users and items are all those of the log, with or without a training pair. Pairs of before ``rule.since`` stay
    training pairs: known, and no negatives; a step does not draw them.

    Args:
        dataset: with keys.
        rule: see :class:`PairRule`.
        source: for reports.

    Raises:
        ConfigError: the log has no such ``rule.action``, or ``rule.since`` is no time.
        DataFileError: no training sample is labelled 1, no pair of the test part is new, or an item's id is a text that
            the log does not hold.
        InvalidInputError: no training pair is as new as ``rule.since``.
    """
    table = dataset.table
    weight_S = _weights(dataset, rule)
    positive_S = dataset.samples.label == 1
    if weight_S is not None:
        positive_S = positive_S & (weight_S > 0)

    def pairs(rows: Int64Array) -> Pairs:
        chosen = rows[positive_S[rows]]
        return make_pairs(
            dataset.sample_user[chosen],
            dataset.sample_item[chosen],
            weight_E=None if weight_S is None else weight_S[chosen],
            time_ms_E=dataset.sample_time_ms[chosen],
        )

    training = dataset.split("train")
    train, test = pairs(training), pairs(dataset.split("test"))
    if not len(train):
        raise DataFileError(
            f"{source}: none of the {len(training):,} training samples is a positive, of which such a model learns "
            "alone; `recsys prepare` makes positives by --label RULE, a column label, or --negatives "
            "(docs/guides/data.md)"
        )
    validation = without(pairs(dataset.split("validation")), train)
    testing, taken = dataset.split("test"), test
    test = without(without(test, train), validation)
    if not len(test):
        raise DataFileError(
            f"{source}: there is nothing to find in the test part: of its {len(testing):,} samples "
            f"{int(positive_S[testing].sum()):,} are positives, and of their {len(taken):,} items by user all were "
            "taken before; expected a user who takes an item for the first time there: hold out more "
            "(`recsys prepare --test-from`, docs/guides/data.md)"
        )
    before = {part: histories_before(dataset, part) for part in ("validation", "test")}
    if table.features.history is not None and table.features.history.max_age_s:
        before["train"] = histories_before(dataset, "validation" if len(validation) else "test", of_any_age=True)
    histories = {part: events for part, events in before.items() if events is not None}
    notes: tuple[str, ...] = unused_share(rule.validation_share)
    if not len(validation):
        # A model that reads histories would see what a user did after a pair that was drawn.
        train, validation = hold_out(train, share=rule.validation_share, seed=0, newest=bool(histories))
        notes = ()
        if histories and len(validation):
            notes = (
                f"there is no validation part: of each user's training pairs the newest {rule.validation_share:.0%} "
                "are held out, at least 1, and the history for them ends before the first",
            )
        for part, of in (("validation", "test"), ("train", "train")):
            if (events := histories.get(of)) is not None:
                histories[part] = events.where(_before(events, validation, len(table.item_keys)))
    names: tuple[str, ...] | None = None
    if table.features.item_id.id_type == "string":
        found = table.names[table.features.item_id.table].find(table.item_keys)
        if None in found:
            raise DataFileError(f"{source}: an item has no name; prepare the log again")
        names = tuple(name for name in found if name is not None)
    made = Interactions(
        num_users=len(table.user_keys),
        num_items=len(table.item_keys),
        train=train,
        validation=validation,
        test=test,
        source=source,
        ids=PairIds(
            features=table.features, user_keys_N=table.user_keys, item_keys_M=table.item_keys, item_names_M=names
        ),
        histories=histories,
        user_columns={each.name: dataset.user[each.name] for each in table.features.user},
        item_columns={each.name: dataset.item[each.name] for each in table.features.item},
        notes=notes,
    )
    if not rule.since:
        return made
    assert train.time_ms_E is not None
    return replace(made, fresh_E=newest_since(train.time_ms_E, rule.since, what="training pairs"))


def _before(events: UserEvents, held: Pairs, num_items: int) -> BoolArray:
    """True for events before the first of the pairs of their user that are held out, and of none of those, [E]."""
    assert events.time_ms_E is not None and held.time_ms_E is not None
    until_N = np.full(1 + max(int(events.user_E.max(initial=0)), int(held.user_E.max(initial=0))), _NEVER)
    np.minimum.at(until_N, held.user_E, held.time_ms_E)
    of_held_E = np.isin(events.user_E * num_items + events.item_E, held.user_E * num_items + held.item_E)
    before_E: BoolArray = (events.time_ms_E < until_N[events.user_E]) & ~of_held_E
    return before_E


def _weights(dataset: Dataset, rule: PairRule) -> Float32Array | None:
    """Weight of each sample by its action, [S]."""
    if not rule.action_weights:
        if rule.action:
            raise ConfigError(
                f"data.action is {rule.action!r} without data.action_weights, such as "
                f"data.action_weights.purchase=5; allowed: both, or neither"
            )
        return None
    features = dataset.table.features
    attributes = {feature.name: feature for feature in features.event_features()[1:]}
    contexts = {each.name: each for each in features.context if isinstance(each, Categorical) and each.max_values == 1}
    if rule.action not in {**attributes, **contexts}:
        raise ConfigError(
            f"data.action is {rule.action!r}: {nearest(rule.action, {**attributes, **contexts})}; expected an "
            "attribute of the history, or a context feature of one id"
        )
    feature = attributes.get(rule.action) or contexts[rule.action]
    texts = list(rule.action_weights)
    if feature.id_type == "string":
        keys = string_keys(texts)
    else:
        try:
            keys = integer_keys(np.array([int(text) for text in texts]))
        except (ValueError, OverflowError):
            raise ConfigError(
                f"data.action_weights: {texts}; {rule.action} takes integers, such as data.action_weights.1=5"
            ) from None
    if rule.action in attributes:
        position_S = np.asarray(dataset.samples.position)
        if (position_S < 0).any():
            raise ConfigError(
                f"data.action is {rule.action!r}, an attribute of the history, and the samples are no events of it "
                "but what was shown; give a context feature"
            )
        value_S = dataset.history[f"history.{rule.action}"][position_S]
    else:
        value_S = np.asarray(dataset.context[rule.action])[dataset.context_row]
    order = np.argsort(keys)
    weights = np.array(list(rule.action_weights.values()), dtype=np.float32)[order]
    place_S = np.minimum(np.searchsorted(keys[order], value_S), len(keys) - 1)
    weight_S: Float32Array = np.where(keys[order][place_S] == value_S, weights[place_S], np.float32(1.0))
    return weight_S
