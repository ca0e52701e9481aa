"""Rules: messages to checked rules, and what became of them to messages."""

from __future__ import annotations

from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.proto import ranker_pb2 as pb
from recsys.serving.filters.language import Condition, check_attribute
from recsys.serving.rpc.convert.filters import condition_of
from recsys.serving.rpc.convert.ids import one_key
from recsys.serving.rules.language import Pin, Rule, Rules, at_most, boost, diverse, make_rules
from recsys.serving.rules.report import RulesReport

_PINS = {
    "": pb.PIN_OUTCOME_UNSPECIFIED,
    "placed": pb.PIN_OUTCOME_PLACED,
    "excluded": pb.PIN_OUTCOME_EXCLUDED,
    "seen": pb.PIN_OUTCOME_SEEN,
    "unknown": pb.PIN_OUTCOME_UNKNOWN,
    "withdrawn": pb.PIN_OUTCOME_WITHDRAWN,
    "filtered_out": pb.PIN_OUTCOME_FILTERED_OUT,
    "not_a_candidate": pb.PIN_OUTCOME_NOT_A_CANDIDATE,
}


def rules_of(
    message: pb.RankRequest | pb.RecommendRequest, features: FeatureSet, *, top_k: int, candidates: int
) -> Rules | None:
    """Check and convert a request's rules; None if it has none.

    Args:
        message: the request.
        features: of the model.
        top_k: places of the list.
        candidates: most that it is made of.

    Raises:
        InvalidInputError: see the message; it names the rule.
    """
    rules = [_rule(f"rules[{at}]", given, features) for at, given in enumerate(message.rules)]
    return make_rules(rules, top_k=top_k, candidates=candidates, reasons=message.reasons)


def rules_message(report: RulesReport | None, rules: Rules | None) -> pb.RulesReport | None:
    """Convert what became of rules; None for none."""
    if report is None or rules is None:
        return None
    reasons = None
    if rules.reasons:
        reasons = [
            pb.ItemReason(place_by_score=place, rules=acted)
            for place, acted in zip(report.places_by_score.tolist(), report.acted, strict=True)
        ]
    return pb.RulesReport(
        effects=[
            pb.RuleEffect(acted=of.acted, left_out=of.left_out, pin=_PINS[of.pin], place=of.place)
            for of in report.effects
        ],
        lacking=report.lacking,
        detail=report.detail,
        unknown_values=report.unknown_values,
        without_vector=report.without_vector,
        age_ms=min(report.age_ms, 0xFFFFFFFF),
        reasons=reasons,
    )


def _rule(where: str, given: pb.Rule, features: FeatureSet) -> Rule:
    kind = given.WhichOneof("rule")
    if kind == "at_most":
        own = f"{where}.at_most"
        name = given.at_most.attribute
        attribute = check_attribute(f"{own}.attribute", name, features) if name else None
        when = _when(own, given.at_most.when, features) if given.at_most.HasField("when") else None
        return at_most(own, given.at_most.count, attribute=attribute, when=when)
    if kind == "boost":
        own, effect = f"{where}.boost", given.boost.WhichOneof("effect")
        when = _when(own, given.boost.when, features)
        multiply = given.boost.multiply if effect == "multiply" else None
        return boost(own, when, multiply=multiply, add=given.boost.add if effect == "add" else None)
    if kind == "pin":
        key = one_key(f"{where}.pin.item", given.pin.item, features.item_id)
        return Pin(key=key, place=given.pin.place, text=given.pin.item.text)
    if kind == "diverse":
        return diverse(f"{where}.diverse", given.diverse.relevance)
    raise InvalidInputError(f"{where}: no rule; set at_most, boost, pin or diverse")


def _when(where: str, given: pb.Condition, features: FeatureSet) -> Condition:
    return condition_of(f"{where}.when", given, features)
