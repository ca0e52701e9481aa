"""Sequences of items, split leave-one-out, as interactions: every item before the validation part is a training pair.

Of a log the training pairs are the positive *samples* (``positives.py``); of a sequence the first item is no sample,
because nothing came before it, but it was taken like the others.

A place in the sequence stands for the time (:mod:`recsys.data.sources.sequences.prepare`): it orders a user's events
and tells no age, so that pairs and histories have no times.

Legend: ``G`` users, ``C`` candidates, ``E`` pairs, ``L`` events of the log.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.pairs import Interactions, Pairs, make_pairs, without
from recsys.data.interactions.positives import PairRule, positive_pairs
from recsys.data.samples.dataset import Dataset
from recsys.errors import ConfigError


def sequence_pairs(dataset: Dataset, rule: PairRule, *, source: str) -> Interactions:
    """Users and items of sequences, with the lists of candidates that validation and test rank.

    Args:
        dataset: of :func:`recsys.data.sources.sequences.prepare.prepare_sequences`.
        rule: without effect but for what is refused.
        source: for reports.

    Raises:
        ConfigError: the rule asks for times or actions, of which sequences tell nothing.
    """
    refuse_rule(rule, "sequences of items")
    made = positive_pairs(dataset, rule, source=source)
    table = dataset.table
    validation = dataset.split("validation")
    begins_N = np.full(len(table.user_keys), np.iinfo(np.int64).max)
    np.minimum.at(begins_N, dataset.sample_user[validation], dataset.sample_time_ms[validation])
    user_L = np.repeat(np.arange(len(table.user_keys)), np.diff(table.offsets))
    trained_L = np.asarray(table.timestamp_ms) < begins_N[user_L]
    train = make_pairs(user_L[trained_L], np.asarray(table.item_index)[trained_L].astype(np.int64))
    parts = {"validation": without(made.validation, train)}
    parts["test"] = without(without(made.test, train), parts["validation"])
    notes = tuple(made.notes)
    for name, part in parts.items():
        if repeated := len(np.unique(dataset.sample_user[dataset.split(name)])) - len(part):
            notes += (f"left out of the {name} part: {repeated:,} users, whose item there is one that they had before",)
    return replace(
        made,
        train=train,
        validation=_timeless(parts["validation"]),
        test=_timeless(parts["test"]),
        histories={name: replace(events, time_ms_E=None) for name, events in made.histories.items()},
        candidates={name: _lists(dataset, name) for name in parts},
        notes=notes,
    )


def refuse_rule(rule: PairRule, what: str) -> None:
    """Refuse a rule that asks for more than pairs; raises ConfigError."""
    for setting, value in (("since", rule.since), ("action", rule.action), ("action_weights", rule.action_weights)):
        if value:
            raise ConfigError(f"data.{setting} is {value!r}; allowed for {what}: none, they tell no more")


def _timeless(pairs: Pairs) -> Pairs:
    return replace(pairs, time_ms_E=None)


def _lists(dataset: Dataset, part: str) -> CandidateLists:
    """A user's samples of a part are one list, as the data was prepared."""
    samples = dataset.split(part)
    user_M, label_M = dataset.sample_user[samples], dataset.samples.label[samples]
    order_M = np.lexsort((1 - label_M.astype(np.int64), user_M))
    user_G, count_G = np.unique(user_M, return_counts=True)
    width = int(count_G.max(initial=1))
    assert (count_G == width).all()
    items_M = dataset.sample_item[samples][order_M].astype(np.int64)
    return CandidateLists(user_G=user_G.astype(np.int64), item_GC=items_M.reshape(-1, width))
