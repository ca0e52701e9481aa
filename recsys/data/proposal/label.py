"""Source of positives and negatives: a column of labels, a rule on one, or clicks alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.data.proposal.facts import Facts
from recsys.data.proposal.words import ACTION, CLICK, RATING, SHOWN, TOOK, has, parts
from recsys.errors import ConfigError, nearest
from recsys.features.feature_set import is_name
from recsys.rows.contract import LABEL
from recsys.rows.label_rule import LabelRule, parse_label

NEGATIVES = 4
_MOST_ACTIONS = 20
_MOST_GRADES = 21
_HIGHEST_GRADE = 100


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """Source of labels.

    Attributes:
        column: that has them; empty for clicks alone.
        rule: that makes them of the column; empty if it has labels as they are.
        reason: for the guess.
        near: another reading, and how to choose it.
    """

    column: str = ""
    rule: str = ""
    reason: str
    near: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `recsys prepare`."""
        if not self.column:
            return ("--negatives", str(NEGATIVES))
        return ("--label", self.rule) if self.rule else ()


def find_label(columns: Mapping[str, Facts], given: str | None) -> LabelChoice:
    """Labels of a log: a column, a rule, or none.

    Raises:
        ConfigError: the rule that was given is none, or its column is not there.
    """
    if given is not None:
        rule = parse_label(given)
        if rule.column not in columns:
            raise ConfigError(f"--label {given}: column {rule.column!r} is missing; {nearest(rule.column, columns)}")
        return LabelChoice(column=rule.column, rule=given, reason="--label says so")
    drawn = f"pass --negatives {NEGATIVES} to prepare, if every row is something a user took"
    for name, facts in columns.items():
        if name == LABEL and _values(facts) == {0.0, 1.0}:
            return LabelChoice(
                column=name, reason=f"its name, and 0 and 1; {_share(facts, parse_label('label==1'))} positive"
            )
    for name, facts in columns.items():
        if is_name(name) and _values(facts) == {0.0, 1.0} and has(name, CLICK):
            return _rule(facts, f"{name}==1", "its name, and 0 and 1 alone", drawn)
    for name, facts in columns.items():
        if not is_name(name) or not has(name, RATING) or facts.kind not in ("integer", "number"):
            continue
        numbers = facts.numbers
        if 3 <= len(numbers) <= _MOST_GRADES and numbers[0] >= 0 and numbers[-1] <= _HIGHEST_GRADE:
            bound = numbers[-1] * 0.8
            near = f"another bound, such as --label '{name}>{bound:g}'; {drawn}"
            return _rule(facts, f"{name}>={bound:g}", f"grades from {numbers[0]:g} to {numbers[-1]:g}", near)
    for name, facts in columns.items():
        if is_name(name) and _acts(facts):
            words = sorted(str(value) for value in facts.counts)
            shown = [word for word in words if has(word, SHOWN)]
            took = [word for word in words if word not in shown]
            if len(shown) == 1 and took:
                made = f"{name}!={json.dumps(shown[0])}" if len(took) > 1 else f"{name}=={json.dumps(took[0])}"
                return _rule(facts, made, f"{shown[0]} is what was shown, {', '.join(took[:4])} what was taken", drawn)
            rarest = min(took or words, key=lambda word: facts.counts[word])
            return LabelChoice(
                reason=f"no row of {name} ({', '.join(words[:6])}) says that something was shown and left",
                near=f"to learn {rarest} alone: pass --label '{name}=={json.dumps(rarest)}'; all others are negatives",
            )
    return LabelChoice(
        reason="no column has labels (0 and 1, a rating, or actions such as impression and click): every row is taken "
        "for something a user took"
    )


def is_action(facts: Facts) -> bool:
    """True if the column names what a user did."""
    return _acts(facts)


def _rule(facts: Facts, rule: str, reason: str, near: str) -> LabelChoice:
    parsed = parse_label(rule)
    return LabelChoice(
        column=facts.name, rule=rule, reason=f"{reason}; {_share(facts, parsed)} of the rows positive", near=near
    )


def _share(facts: Facts, rule: LabelRule) -> str:
    """Share of rows that a rule makes positive."""
    import numpy as np

    from recsys.features.columns import float_column, text_column

    values = list(facts.counts)
    column = (text_column if isinstance(rule.value, str) else float_column)(facts.name, values)[0]
    rows = np.array(list(facts.counts.values()))
    return f"{rows[rule.labels(column) == 1].sum() / facts.present:.0%}"


def _values(facts: Facts) -> set[float]:
    return set(facts.numbers) if facts.kind == "integer" and facts.distinct <= 4 else set()


def _acts(facts: Facts) -> bool:
    if facts.kind != "text" or not 2 <= facts.distinct <= _MOST_ACTIONS or not has(facts.name, ACTION):
        return False
    known = sum(has(str(value), SHOWN | TOOK) for value in facts.counts)
    return parts(facts.name)[-1] in ACTION and 2 * known >= facts.distinct
