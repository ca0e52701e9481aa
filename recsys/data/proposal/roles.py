"""Roles of the columns that are neither id nor time: of the item, of the user, of the request, of past events, or none.

A column that nobody can place is a history attribute where it is an id, and left out where it is a number: as a context
feature an outcome (a dwell time, a review's length) would tell a model the answer before it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recsys.data.proposal.facts import Facts, constancy
from recsys.data.proposal.ids import Role, id_form
from recsys.data.proposal.label import LabelChoice, is_action
from recsys.data.proposal.words import (
    CATEGORY,
    CONTEXT,
    ID,
    NUMBER,
    OF_USER,
    OUTCOME,
    RATING,
    TIME,
    VISIT,
    has,
    parts,
)
from recsys.errors import ConfigError
from recsys.features.feature_set import ITEM, is_name
from recsys.rows.contract import LABEL

CHOICES = ("item", "user", "context", "history", "ignored")
"""Roles that ``--as COLUMN=ROLE`` takes."""

_ALWAYS = 0.98
_MOSTLY = 0.8
_FEW_KEYS = 5
_FEW_VALUES = 50
_OWN_VALUE = 0.9
_EACH_ITS_OWN = 0.5
_MOST_CONTEXT = 1_000
_U8 = range(255)


def form_of(facts: Facts) -> tuple[Role, str]:
    """The column as a feature, its role still open, and the reason for its form.

    Multi-valued, a category, or a number; ``near`` says so where it could be either of the last two.
    """
    name = facts.name
    base = Role(column=name, role="", reason="")
    if facts.kind == "list":
        most = 4
        while most < facts.most:
            most *= 2
        reason = f"several values in a row, at most {facts.most} in those looked at"
        return replace(base, form=id_form(facts), most=most), reason
    if facts.kind == "text":
        return replace(base, form="string"), f"{facts.distinct:,} distinct texts"
    if facts.kind == "number":
        return replace(base, form="number"), f"numbers from {facts.numbers[0]:g} to {facts.numbers[-1]:g}"
    whole = f"{facts.distinct:,} distinct integers from {facts.numbers[0]:g} to {facts.numbers[-1]:g}"
    category = replace(base, form="int")
    if has(name, CATEGORY) or not ID.isdisjoint(parts(name)):
        return category, f"{whole}; its name is that of a category"
    if has(name, NUMBER):
        return replace(base, form="number"), f"{whole}; its name is that of a number"
    if facts.distinct <= _FEW_VALUES:
        near = "" if facts.distinct <= 10 else f'a number: {{"kind": "numeric", "name": "{name}"}} in its place'
        return replace(category, near=near), f"{whole}: few, taken for categories"
    near = f'a category: {{"name": "{name}"}} in its place'
    return replace(base, form="number", near=near), f"{whole}: many, taken for a number"


def other_roles(
    columns: Mapping[str, Facts],
    ids: Sequence[Role],
    label: LabelChoice,
    told: Mapping[str, str],
) -> list[Role]:
    """Roles of all columns but those of ``ids``.

    Raises:
        ConfigError: a column that was told to be a feature cannot be one.
    """
    of = {role.role: columns[role.column] for role in ids}
    taken = {role.column: role.unit for role in ids}
    time_unit = next(role.unit for role in ids if role.role == "time")
    roles = []
    for name, facts in columns.items():
        if name in taken:
            continue
        if name in told:
            roles.append(_told(facts, told[name]))
        elif name == "arrival_ms":
            roles.append(
                Role(column=name, role="arrival", form="time", unit=time_unit, reason="its name: known from then on")
            )
        elif name == label.column:
            roles.append(_label_role(facts, label))
        else:
            roles.append(_without_value(facts) or _by_values(facts, of["user id"], of["item id"]))
    return roles


def varying(facts: Facts, said: str) -> Role:
    """Role of a column that is neither the item's nor the user's; ``said``: why it is not."""
    name = facts.name
    role, why = form_of(facts)
    if is_action(facts):
        return replace(role, role="history", reason=f"{why}; what the user did")
    if has(name, VISIT) and facts.distinct > _FEW_VALUES:
        return _ignored(name, f"{why}: one for each visit, order or row, by its name")
    instead = f"pass --as {name}=context, if it is known before the user acts"
    if has(name, OUTCOME | RATING):
        if role.form == "number" or role.most > 1:
            return _ignored(name, f"{why}; known only after the user acted, by its name; an event holds ids", instead)
        return replace(
            role, role="history", reason=f"{why}; known only after the user acted, by its name", near=instead
        )
    if has(name, CONTEXT) and not (role.form != "number" and facts.distinct > _MOST_CONTEXT):
        return replace(role, role="context", reason=f"{why}; {said}; its name is that of a request's circumstances")
    if role.form == "number" or role.most > 1:
        return _ignored(name, f"{why}; {said}; nothing says that it is known before the user acts", instead)
    if facts.distinct > _MOST_CONTEXT:
        return _ignored(name, f"{why}: many; {said}", instead)
    return replace(
        role, role="history", reason=f"{why}; {said}; nothing says that it is known before the user acts", near=instead
    )


def _by_values(facts: Facts, user: Facts, item: Facts) -> Role:
    if is_action(facts):
        return varying(facts, "")
    role, why = form_of(facts)
    of_items, item_share = constancy(facts, item)
    of_users, user_share = constancy(facts, user)
    always = {
        "item": (of_items, item_share >= _ALWAYS and of_items >= _FEW_KEYS, item),
        "user": (of_users, user_share >= _ALWAYS and of_users >= _FEW_KEYS, user),
    }
    whose = [side for side, (_, constant, _) in always.items() if constant]
    if len(whose) == 2:
        first = "user" if has(facts.name, OF_USER) or of_users > 2 * of_items else "item"
        whose = [first, "item" if first == "user" else "user"]
    if whose:
        side = whose[0]
        repeated, _, key = always[side]
        if role.form != "number" and role.most == 1 and 20 <= key.distinct * _EACH_ITS_OWN <= facts.distinct:
            near = f"pass --as {facts.name}={side}"
            return _ignored(facts.name, f"{why} for {key.distinct:,} {side}s: says little more than the id", near)
        reason = f"{why}; the same in all rows of each of {repeated:,} {side}s"
        near = role.near
        if len(whose) == 2:
            near = "; ".join(filter(None, (near, f"constant for {whose[1]}s too: pass --as {facts.name}={whose[1]}")))
        return replace(role, role=side, reason=reason, near=near)
    if (
        facts.kind in ("integer", "text")
        and facts.distinct >= _OWN_VALUE * facts.present
        and facts.present > _FEW_VALUES
    ):
        return _ignored(facts.name, f"{why} in {facts.present:,} rows: nearly every row has its own")
    if item_share >= _MOSTLY and item_share > user_share + 0.1:
        return changing_item(facts, f"{item_share:.0%} of the items have always the same value, the others do not")
    return varying(facts, "it changes for users and items")


def changing_item(facts: Facts, said: str) -> Role:
    """Role of an item's attribute that is not always the same: none, unless it is told."""
    if has(facts.name, CONTEXT):
        return varying(facts, said)
    near = (
        f"pass --as {facts.name}=item: every item then has its newest value, in training too; or "
        f"--as {facts.name}=context, if it is the request's and no item's"
    )
    return _ignored(
        facts.name, f"{said}: an attribute of items that changes. A request has one context for all candidates", near
    )


def _told(facts: Facts, role: str) -> Role:
    if role == "ignored":
        return _ignored(facts.name, "--as says so")
    problem = _without_value(facts)
    if problem is not None:
        raise ConfigError(f"--as {facts.name}={role}: it cannot be a feature: {problem.reason}")
    found, why = form_of(facts)
    if role == "history" and (found.form == "number" or found.most > 1):
        raise ConfigError(
            f"--as {facts.name}=history: {why}; an event holds one id. Give buckets, or a column for each value "
            "(docs/guides/features.md)"
        )
    return replace(found, role=role, reason=f"{why}; --as says so")


def _without_value(facts: Facts) -> Role | None:
    """The role of a column that can be no feature."""
    name = facts.name
    if facts.kind == "empty":
        return _ignored(name, "no value in the rows looked at")
    if not is_name(name):
        return _ignored(
            name, "its name: a feature's has letters (a to z), digits and '_', and is not reserved; rename it"
        )
    if name == ITEM:
        return _ignored(name, "its name: in an event it is that of the item's id; rename it")
    if facts.kind == "object":
        return _ignored(name, "objects; give their parts as columns")
    if facts.kind == "mixed":
        return _ignored(name, "values of several types (numbers and texts)")
    if facts.distinct == 1:
        return _ignored(name, f"always {facts.example[:40]!r}: nothing to learn from")
    if facts.most > 256:
        return _ignored(name, f"up to {facts.most:,} values in a row; a feature has at most 256")
    if facts.kind == "time":
        return _ignored(name, "another time; give an age in hours as a number, or an hour of the day as an id")
    if facts.kind == "integer" and has(name, TIME) and facts.numbers[0] > 1e8:
        return _ignored(name, "another time, by its name; give an age in hours as a number")
    return None


def _label_role(facts: Facts, label: LabelChoice) -> Role:
    if facts.name == LABEL:
        near = "name it clicked and pass --label 'clicked==1': past events then say which of them were clicks"
        return Role(column=facts.name, role="label", reason=label.reason, near=near)
    role, _ = form_of(facts)
    if _fits_u8(facts):
        role = replace(role, form="int", storage="u8")
    if role.form == "number" or role.most > 1 or not is_name(facts.name):
        return Role(
            column=facts.name,
            role="label",
            reason=f"{label.reason}. No history attribute: it is no id",
            near=label.near,
        )
    return replace(role, role="label, history", reason=f"{label.reason}. Known of past events", near=label.near)


def _ignored(name: str, reason: str, near: str = "") -> Role:
    return Role(column=name, role="ignored", reason=reason, near=near)


def _fits_u8(facts: Facts) -> bool:
    return facts.kind == "integer" and facts.distinct <= _FEW_VALUES and all(v in _U8 for v in facts.numbers)
