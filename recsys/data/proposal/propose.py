"""A proposal: the FeatureSet of a log, the options to read it with, and the reason for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.data.proposal.attributes import Entities, take_out
from recsys.data.proposal.facts import Facts, facts_of
from recsys.data.proposal.ids import Role, find_id, find_time
from recsys.data.proposal.label import LabelChoice, find_label
from recsys.data.proposal.look import LogSample, look
from recsys.data.proposal.roles import CHOICES, changing_item, other_roles, varying
from recsys.errors import ConfigError, nearest
from recsys.features.feature_set import Categorical, Feature, FeatureSet, History, Numeric
from recsys.rows.contract import ReadOptions, event_rows
from recsys.rows.label_rule import parse_label

_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class Told:
    """Guesses that the caller makes instead.

    Attributes:
        user, item, timestamp: columns.
        label: rule.
        roles: column -> one of ``roles.CHOICES``.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    label: str | None = None
    roles: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """All that was found out about a log.

    Attributes:
        log: as it was given.
        sample: rows that were looked at.
        roles: of every column, in the log's order.
        features: the FeatureSet.
        label: where labels come from.
        reading: options to read the log with.
        entities: ``item`` or ``user`` -> values taken out of the log, if it has attributes of them.
        refused: rows of the sample that do not fit the FeatureSet.
        reasons: the commonest, in words.
    """

    log: tuple[str, ...]
    sample: LogSample
    roles: tuple[Role, ...]
    features: FeatureSet
    label: LabelChoice
    reading: ReadOptions
    entities: Mapping[str, Entities]
    refused: int
    reasons: tuple[str, ...]

    def named(self, role: str) -> tuple[Role, ...]:
        """Columns with this role."""
        return tuple(one for one in self.roles if role in one.role.split(", "))

    def write_entities(self, paths: Mapping[str, Path]) -> None:
        """Write the files of items and users.

        Raises:
            ConfigError, NoSpaceError: one cannot be written.
        """
        for side, entities in self.entities.items():
            entities.write(paths[side], [role.column for role in self.named(side)])


def propose(log: Sequence[str], name: str, told: Told, report: Callable[[int], None] = lambda rows: None) -> Proposal:
    """Look at a log, and propose the FeatureSet ``name``.

    Args:
        log: files, folders or patterns.
        name: of the FeatureSet.
        told: what is not to be guessed.
        report: called with the rows read so far, where all of them are.

    Raises:
        ConfigError: no user, item or time can be found, or what was told does not fit.
        DataFileError: the log cannot be read.
    """
    sample = look(log)
    columns = {n: facts_of(n, values, written=sample.written) for n, values in sample.columns.items()}
    given = dict(told.roles or {})
    for column, role in given.items():
        if column not in columns:
            raise ConfigError(f"--as {column}={role}: no such column; {nearest(column, columns)}")
        if role not in CHOICES:
            raise ConfigError(f"--as {column}={role}: {nearest(role, CHOICES)}")
    free = {n: facts for n, facts in columns.items() if n not in given}
    time = find_time({n: f for n, f in free.items() if n not in (told.user, told.item)}, told.timestamp)
    ids = {n: facts for n, facts in free.items() if n != time.column}
    user = find_id({n: f for n, f in ids.items() if n != told.item}, "user", told.user)
    item = find_id({n: f for n, f in ids.items() if n != user.column}, "item", told.item)
    label = find_label({n: f for n, f in ids.items() if n not in (user.column, item.column)}, told.label)
    roles = {one.column: one for one in (user, item, time)}
    roles |= {one.column: one for one in other_roles(columns, (user, item, time), label, given)}
    reading = ReadOptions(timestamp=time.column, unit=time.unit)
    entities = _take_out(sample, columns, roles, reading, given, report)
    roles = {n: _also_of_events(roles[n]) for n in columns}
    features = _feature_set(name, list(roles.values()))
    declared = {time.column, "arrival_ms", *([label.column] if label.column else [])}  # a column may be named ""
    declared |= {f.name for f in (*features.event_features(), features.user_id, *features.context)}
    reading = replace(reading, ignored=tuple(n for n in columns if n not in declared))
    refused, reasons = _check(sample, features, reading, label)
    return Proposal(
        log=tuple(log),
        sample=sample,
        roles=tuple(roles.values()),
        features=features,
        label=label,
        reading=reading,
        entities=entities,
        refused=refused,
        reasons=reasons,
    )


def _take_out(
    sample: LogSample,
    columns: Mapping[str, Facts],
    roles: dict[str, Role],
    reading: ReadOptions,
    given: Mapping[str, str],
    report: Callable[[int], None],
) -> dict[str, Entities]:
    """Values of attributes, of the whole log; the roles of those that change become others."""
    sides = {side: [one for one in roles.values() if one.role == side] for side in ("item", "user")}
    sides = {side: found for side, found in sides.items() if found}
    if not sides:
        return {}
    id_of = {one.role.removesuffix(" id"): one for one in roles.values() if one.role.endswith(" id")}
    asked = [(_categorical(id_of[side]), [_feature(one) for one in found]) for side, found in sides.items()]
    taken = dict(zip(sides, take_out(sample.files, asked, reading, report), strict=True))
    for side, found in sides.items():
        for one in found:
            changed, known = taken[side].attributes[one.column].changes()
            if not changed:
                reason = f"{one.reason} looked at, and of all {known:,} in the log"
                roles[one.column] = replace(one, reason=reason if "--as" not in one.reason else one.reason)
            elif one.column in given:
                reason = f"{one.reason}; {changed:,} of {known:,} {side}s have several values, and get the newest"
                roles[one.column] = replace(one, reason=reason)
            else:
                said = f"it changes for {changed:,} of {known:,} {side}s"
                facts = columns[one.column]
                roles[one.column] = changing_item(facts, said) if side == "item" else varying(facts, said)
    return {s: taken[s] for s in sides if any(roles[one.column].role == s for one in sides[s])}


def _feature_set(name: str, roles: Sequence[Role]) -> FeatureSet:
    by = {side: [one for one in roles if side in one.role.split(", ")] for side in CHOICES}
    of = {one.role: _categorical(one) for one in roles if one.role.endswith(" id")}
    return FeatureSet(
        name=name,
        user_id=of["user id"],
        item_id=of["item id"],
        user=tuple(_feature(one) for one in by["user"]),
        item=tuple(_feature(one) for one in by["item"]),
        context=tuple(_feature(one) for one in by["context"]),
        history=History(attributes=tuple(_categorical(one) for one in by["history"])),
    )


def _also_of_events(role: Role) -> Role:
    """Categories of items are attributes of events: a model compares what was seen with the candidate."""
    return (
        replace(role, role="item, history")
        if role.role == "item" and role.form != "number" and role.most == 1
        else role
    )


def _feature(role: Role) -> Feature:
    return Numeric(name=role.column) if role.form == "number" else _categorical(role)


def _categorical(role: Role) -> Categorical:
    id_type = "int" if role.form == "int" else "string"
    return Categorical(name=role.column, id_type=id_type, max_values=role.most, storage=role.storage)  # type: ignore[arg-type]


def _check(
    sample: LogSample, features: FeatureSet, reading: ReadOptions, label: LabelChoice
) -> tuple[int, tuple[str, ...]]:
    """Rows of the sample that the contract refuses, and why: the proposal is held against what it was made of."""
    contract = event_rows(features, reading, rule=parse_label(label.rule) if label.rule else None)
    encoded = contract.encode(sample.columns, sample.rows)
    reasons = Counter(str(error) for error in encoded.refused.values())
    return len(encoded.refused), tuple(f"{reason} ({count:,} rows)" for reason, count in reasons.most_common(_REASONS))
