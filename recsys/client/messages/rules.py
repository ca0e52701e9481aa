"""Messages of rules: arguments to requests, reports to results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recsys.client.messages.fields import fitting, id_field
from recsys.client.messages.filters import condition_message
from recsys.client.rules import AtMost, Boost, Diverse, Pin, Rule
from recsys.client.types import ItemReason, RuleEffect, RulesReport
from recsys.errors import InvalidInputError
from recsys.proto import ranker_pb2

_NUMBER, _COUNT = "a number", "an integer, 1 or more"


def rule_messages(rules: Sequence[Rule]) -> list[ranker_pb2.Rule]:
    """The messages of rules."""
    if not isinstance(rules, list | tuple):
        raise InvalidInputError(
            f"rules: got {rules!r}; allowed: a list of what at_most(), boost(), pin() and diverse() make"
        )
    return [_message(f"rules[{at}]", rule) for at, rule in enumerate(rules)]


def _message(where: str, rule: Rule) -> ranker_pb2.Rule:
    made = ranker_pb2.Rule()
    if isinstance(rule, AtMost):
        with fitting(f"{where}: count", allowed=_COUNT):
            made.at_most.count = rule.count
        if rule.test is None:
            with fitting(f"{where}: attribute", allowed="a string"):
                made.at_most.attribute = rule.attribute
        else:
            made.at_most.when.CopyFrom(condition_message(where, rule.attribute, rule.test))
    elif isinstance(rule, Boost):
        made.boost.when.CopyFrom(condition_message(where, rule.attribute, rule.test))
        effect = "add" if rule.multiply is None else "multiply"
        with fitting(f"{where}: {effect}", allowed=_NUMBER):
            setattr(made.boost, effect, getattr(rule, effect))
    elif isinstance(rule, Pin):
        made.pin.item.CopyFrom(id_field(rule.item, name=f"{where}: item"))
        with fitting(f"{where}: place", allowed=_COUNT):
            made.pin.place = rule.place
    elif isinstance(rule, Diverse):
        with fitting(f"{where}: relevance", allowed=_NUMBER):
            made.diverse.SetInParent()
            made.diverse.relevance = rule.relevance
    else:
        raise InvalidInputError(f"{where}: got {rule!r}; allowed: what at_most(), boost(), pin() and diverse() make")
    return made


_PINS = {
    ranker_pb2.PIN_OUTCOME_PLACED: "placed",
    ranker_pb2.PIN_OUTCOME_EXCLUDED: "excluded",
    ranker_pb2.PIN_OUTCOME_SEEN: "seen",
    ranker_pb2.PIN_OUTCOME_UNKNOWN: "unknown",
    ranker_pb2.PIN_OUTCOME_WITHDRAWN: "withdrawn",
    ranker_pb2.PIN_OUTCOME_FILTERED_OUT: "filtered_out",
    ranker_pb2.PIN_OUTCOME_NOT_A_CANDIDATE: "not_a_candidate",
}


def rules_report(response: Any) -> RulesReport | None:
    """The report of an answer on its rules; None: there were none."""
    if not response.HasField("rules"):
        return None
    of = response.rules
    return RulesReport(
        effects=tuple(
            RuleEffect(acted=each.acted, left_out=each.left_out, pin=_PINS.get(each.pin, ""), place=each.place)
            for each in of.effects
        ),
        lacking=of.lacking,
        detail=of.detail,
        unknown_values=tuple(of.unknown_values),
        without_vector=of.without_vector,
        age_ms=of.age_ms,
        reasons=tuple(ItemReason(place_by_score=each.place_by_score, rules=tuple(each.rules)) for each in of.reasons),
    )
