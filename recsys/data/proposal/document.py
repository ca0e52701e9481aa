"""The commands that follow a proposal, its FeatureSet as a file to read and change, and the page beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.data.proposal.facts import facts_of
from recsys.data.proposal.ids import Role
from recsys.data.proposal.propose import Proposal
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.values import is_missing

_RANKED = 3


def readable_json(features: FeatureSet) -> str:
    """A FeatureSet without entities, a feature a line, defaults left out; :meth:`FeatureSet.from_json` reads it."""
    assert features.history is not None and not features.entities
    history = features.history
    lines = [
        f'  "name": {json.dumps(features.name)}',
        f'  "user_id": {_object(features.user_id)}',
        f'  "item_id": {_object(features.item_id)}',
    ]
    sides: tuple[tuple[str, Sequence[Feature]], ...] = (
        ("user", features.user), ("item", features.item), ("context", features.context),
    )  # fmt: skip
    lines += [f'  "{side}": {_array(found, "  ")}' for side, found in sides if found]
    sizes = f'"max_events": {history.max_events}, "recent": {history.recent}, "max_age_s": {history.max_age_s}'
    lines.append(f'  "history": {{\n    "attributes": {_array(history.attributes, "    ")},\n    {sizes}\n  }}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def commands(proposal: Proposal, features: Path, entities: Mapping[str, Path]) -> list[list[str]]:
    """Commands from the log to a ranked list, as lists of arguments.

    Args:
        proposal: of the log.
        features: file of its FeatureSet.
        entities: ``item`` and ``user`` -> files of their attributes, as far as there are any.
    """
    name = proposal.features.name
    prepared, run, bundle = f"./{name}", f"runs/{name}", f"runs/{name}-bundle"
    files = [part for side, path in entities.items() for part in (f"--{side}s", str(path))]
    return [
        ["prepare", *proposal.log, "--features", str(features), "--out", prepared, *proposal.label.options]
        + [*files, *_reading(proposal, ignored=proposal.reading.ignored)],
        ["train", "din", f"data.dataset={prepared}", "--run-dir", run],
        ["export", run, "--out", bundle],
        ["serve", bundle, "--materialize", prepared],
        ["rank", *_rank(proposal)],
    ]


def candidate_commands(proposal: Proposal) -> list[list[str]]:
    """Commands for a second model of the log, which finds the candidates that the first one ranks."""
    name = proposal.features.name
    run, bundle = _run(proposal), f"runs/{name}-retrieval-bundle"
    user = next(iter(_texts(proposal, proposal.features.user_id)))
    return [
        ["train", "linear", f"data.dataset=./{name}", "--run-dir", run],
        ["export", run, "--out", bundle],
        ["serve", f"runs/{name}-bundle", "--retrieval", bundle, "--materialize", f"./{name}"],
        ["recommend", "--user", _quoted(user, proposal.features.user_id)],
    ]


def _of_two_tower(proposal: Proposal) -> list[str]:
    """Lines on the model that reads histories in order, where users have one."""
    features = proposal.features
    if features.history is None:
        return []
    new = ", and finds items that have attributes and no event yet" if features.item else ""
    return [
        "`linear` takes seconds. `two_tower`, in its place, takes minutes or more; it reads the newest events of a",
        f"history in their order{new}:",
        "",
        f"    {shell(['train', 'two_tower', f'data.dataset=./{features.name}', '--run-dir', _run(proposal)])}",
        "",
    ]


def _run(proposal: Proposal) -> str:
    return f"runs/{proposal.features.name}-retrieval"


def later_commands(proposal: Proposal, features: Path) -> list[list[str]]:
    """Commands for what comes after: new events, and proof that serving sees what training saw."""
    ignored = [*proposal.reading.ignored]
    events = {f.name for f in proposal.features.event_features()}
    if proposal.label.column and proposal.label.column not in (*events, "label"):
        ignored.append(proposal.label.column)  # its rule is prepare's
    reading = _reading(proposal, ignored=ignored)
    return [["ingest", *proposal.log, "--features", str(features), *reading]]


def shell(arguments: Sequence[str]) -> str:
    """A command as it is typed."""
    return f"recsys {shlex.join(arguments)}"


def page(proposal: Proposal, features: Path, entities: Mapping[str, Path]) -> str:
    """The page beside the FeatureSet, in Markdown: every guess with its reason, and how to change it."""
    label = proposal.label
    *served, asked = [shell(arguments) for arguments in commands(proposal, features, entities)]
    lines = [
        f"# {proposal.features.name}",
        "",
        f"A draft of a FeatureSet for {', '.join(f'`{name}`' for name in proposal.log)}, made by `recsys init`",
        f"from what names and values look like. {looked_at(proposal)}",
        "Read it before you train: a wrong role is a wrong model.",
        "",
        "## Columns",
        "",
        "| column | role | type | reason | or else |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {_cell(f'`{one.column}`')} | {one.role} | {type_of(one)} | {_cell(one.reason)} | {_cell(one.near)} |"
            for one in proposal.roles
        ),
        "",
        "- **item**, **user**: stored, and read at each request. **context**: sent with each request, the same for",
        "  all its candidates. **history**: known of past events only, never of the event that is to be predicted.",
        "- **ignored**: left out by `--ignore`. Nothing of it reaches the model.",
        "- To change a role: `recsys init ... --as COLUMN=item|user|context|history|ignored --overwrite`, or edit",
        f"  `{features.name}`; then take the column out of `--ignore`, or put it in.",
        "",
        "## Samples",
        "",
        f"{_label_words(proposal)}: {label.reason}.",
        *([f"Another reading: {label.near}."] if label.near else []),
        "",
        "## Attributes",
        "",
        *_entity_lines(proposal, entities),
        "",
        "## Commands",
        "",
        *(f"    {line}" for line in served),
        "",
        "The server runs until it is stopped; ask it from another terminal:",
        "",
        f"    {asked}",
        "",
        "Candidates among all items, for a user's id alone, by a second model of the same log:",
        "",
        *(f"    {shell(line)}" for line in candidate_commands(proposal)),
        "",
        *_of_two_tower(proposal),
        "New events, as they come, into the store of the running server (a file of events in place of this log):",
        "",
        *(f"    {shell(line)}" for line in later_commands(proposal, features)),
        "",
    ]
    return "\n".join(lines)


def looked_at(proposal: Proposal) -> str:
    """Sentences on how much was looked at, and whether it fits what was made of it."""
    sample = proposal.sample
    files = "1 file" if len(sample.files) == 1 else f"{sample.looked_at:,} of {len(sample.files):,} files"
    said = f"Looked at {sample.rows:,} rows of {files}"
    if sample.malformed:
        said += f", and {sample.malformed:,} lines that are no rows"
    if not proposal.refused:
        return f"{said}; all of them fit this FeatureSet."
    return f"{said}; {proposal.refused:,} of them do not fit it: {'; '.join(proposal.reasons)}."


def type_of(role: Role) -> str:
    """Type of a column, in words."""
    if role.form in ("", "time"):
        return f"time, {role.unit}" if role.form else ""
    many = f", up to {role.most}" if role.most > 1 else ""
    return "number" if role.form == "number" else f"{role.form} ids{many}"


def _label_words(proposal: Proposal) -> str:
    label = proposal.label
    if not label.column:
        return "Every row is a positive, and `--negatives` draws items that the user never took"
    return f"`--label {shlex.quote(label.rule)}`" if label.rule else "The column `label`"


def _entity_lines(proposal: Proposal, entities: Mapping[str, Path]) -> Iterable[str]:
    if not entities:
        yield "The log has no attributes of items or users; files that have some go to `prepare --items` and `--users`."
        return
    for side, path in entities.items():
        taken = proposal.entities[side]
        names = ", ".join(f"`{one.column}`" for one in proposal.named(side))
        yield (
            f"- `{path.name}`: {names} of {len(taken.ids):,} {side}s, taken out of the whole log, which has them in "
            f"its rows. Make it anew (`recsys init`) for a log with new {side}s, or write such a file from where "
            f"{side}s are kept."
        )


def _reading(proposal: Proposal, *, ignored: Sequence[str]) -> list[str]:
    reading = proposal.reading
    time = next(one for one in proposal.roles if one.role == "time")
    typed = facts_of(time.column, proposal.sample.columns[time.column], written=proposal.sample.written).kind == "time"
    given = [] if reading.timestamp == "timestamp_ms" else ["--timestamp", reading.timestamp]
    given += [] if reading.unit == "ms" or typed else ["--time-unit", reading.unit]
    return given + [part for name in ignored for part in ("--ignore", name)]


def _rank(proposal: Proposal) -> list[str]:
    features = proposal.features
    user = next(iter(_texts(proposal, features.user_id)))
    items = [item for item in _texts(proposal, features.item_id) if "," not in item][:_RANKED]
    given = ["--user", _quoted(user, features.user_id)]
    given += ["--items", ",".join(_quoted(item, features.item_id) for item in items)]
    for feature in features.context:
        value = _context_value(proposal, feature)
        given += ["--feature", f"{feature.name}={value}"] if value else []
    return given


def _texts(proposal: Proposal, id: Categorical) -> list[str]:
    """Distinct ids of the sample as text, in the order in which they come."""
    found = (str(value) for value in proposal.sample.columns[id.name] if not is_missing(value))
    return list(dict.fromkeys(str(int(float(text))) if "." in text and id.id_type == "int" else text for text in found))


def _quoted(text: str, id: Categorical) -> str:
    """A text id that looks like a number in quotes, as `recsys rank` takes it."""
    return f'"{text}"' if id.id_type == "string" and _looks_like_a_number(text) else text


def _context_value(proposal: Proposal, feature: Feature) -> str:
    value = next((v for v in proposal.sample.columns[feature.name] if not is_missing(v)), None)
    if value is None or (isinstance(feature, Categorical) and feature.max_values > 1):
        return ""
    text = str(value).strip()
    if not isinstance(feature, Categorical) or feature.id_type == "int":
        return {"true": "1", "false": "0"}.get(text.lower(), text)
    if '"' in text:
        return ""
    return f'"{text}"' if _looks_like_a_number(text) or not text.replace(" ", "").isalnum() else text


def _looks_like_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _object(feature: Feature) -> str:
    values: dict[str, Any] = {} if isinstance(feature, Categorical) else {"kind": "numeric"}
    values["name"] = feature.name
    if isinstance(feature, Categorical):
        defaults = Categorical(name=feature.name)
        options = ("id_type", "max_values", "table", "storage")
        values |= {o: getattr(feature, o) for o in options if getattr(feature, o) != getattr(defaults, o)}
    return json.dumps(values)


def _array(features: Sequence[Feature], indent: str) -> str:
    if not features:
        return "[]"
    inner = ",\n".join(f"{indent}  {_object(f)}" for f in features)
    return f"[\n{inner}\n{indent}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
