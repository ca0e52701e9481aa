"""`recsys features`: look at a FeatureSet, validate it, and see what a change of it needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table

from recsys.cli.options import JsonOption, load_features, load_number_transforms, output
from recsys.features.changes import changes, store_need
from recsys.features.entities import entity_dtype
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.history.records import event_dtype, layout_fingerprint
from recsys.features.history.rules import identity_fields, inherited_attributes
from recsys.features.number_transform import NumberTransform

app = typer.Typer(no_args_is_help=True, help="Look at a FeatureSet, validate it, and see what a change of it needs.")

_SOURCE = "A JSON file, the folder of a bundle, of a run or of a prepared table, or movielens_1m."
SourceArgument = Annotated[str, typer.Argument(help=_SOURCE)]


@app.command()
def show(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Print the schema: every feature, how it is stored, what a history holds and a model sees."""
    features = load_features(source)
    if as_json:
        print(features.to_json())
        return
    output.print(f"[bold]{features.name}[/bold]  fingerprint {features.fingerprint()}\n")
    table = Table("side", "feature", "kind", "ids", "table or transform", "stored as", box=None)
    for name in features.entity_names():
        entity = features.entity(name)
        for feature in (entity.id, *entity.features):
            stored = "key" if feature is entity.id else _row_bytes(feature)
            table.add_row(name, feature.name, *_kind(feature), stored)
    for feature in features.context:
        table.add_row("context", feature.name, *_kind(feature), "sent with the request")
    for attribute in features.history.attributes if features.history else ():
        table.add_row("history", attribute.name, *_kind(attribute), attribute.storage)
    output.print(table)
    for line in (*_row_lines(features), *_history_lines(features)):
        output.print(line, highlight=False, soft_wrap=True)
    if transforms := load_number_transforms(source):
        output.print("\nas the model reads numbers:")
        output.print(numbers_table(transforms))


@app.command()
def check(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Validate a FeatureSet. Exit code 0 if it is one, 2 with the reason if not."""
    features = load_features(source)
    categorical = len(features.categoricals())
    if as_json:
        facts = {"name": features.name, "fingerprint": features.fingerprint(), "ok": True}
        print(json.dumps({**facts, "history": features.history is not None}))
        return
    output.print(
        f"{features.name} {features.fingerprint()}: ok; {categorical} id features in "
        f"{len(features.tables())} embedding tables, entities {', '.join(features.entity_names())}",
        soft_wrap=True,
    )
    if features.history is None:
        output.print('no history: cannot be prepared or ingested; "history": {} declares one', soft_wrap=True)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help=f"The one in use. {_SOURCE}")],
    new: Annotated[str, typer.Argument(help=f"The new one. {_SOURCE}")],
    as_json: JsonOption = False,
) -> None:
    """Compare two FeatureSets: needs the change a backfill of the store, a new model, or neither."""
    found = changes(load_features(old), load_features(new))
    model = any(change.model for change in found)
    if as_json:
        facts = {"store": store_need(found), "model": model}
        print(json.dumps({**facts, "changes": [dataclasses.asdict(change) for change in found]}))
        return
    if not found:
        output.print("no difference")
        return
    table = Table("change", "store", "model", box=None)
    for change in found:
        table.add_row(change.what, change.store, "train anew" if change.model else "keep")
    output.print(table)
    output.print(f"\n{_ADVICE[store_need(found)]}\n{_MODEL_ADVICE[model]}", highlight=False, soft_wrap=True)


def numbers_table(transforms: Mapping[str, NumberTransform]) -> Table:
    """Table of the transforms by which a model reads numeric features."""
    table = Table("number", "read as", box=None)
    for heading in ("missing", "least", "median", "most"):
        table.add_column(heading, justify="right")
    table.add_column("why", overflow="fold")
    for name, each in transforms.items():
        missing = f"{each.missing / each.samples:.1%}" if each.missing else ""
        facts = (f"{value:.6g}" for value in (each.least, each.median, each.most))
        table.add_row(name, each.kind, missing, *facts, each.why)
    return table


_ADVICE = {
    "nothing": "Store: nothing to do.",
    "backfill": "Store: what is stored stays readable and lacks the new; load it again with `recsys materialize`. "
    "Upgrade every program that reads the store before the first one writes.",
    "reload": "Store: what is stored would be refused. Give the FeatureSet another name and load it "
    "with `recsys materialize`; the old one serves meanwhile.",
}
_MODEL_ADVICE = {False: "Models: keep.", True: "Models: train and export anew."}


def _kind(feature: Feature) -> tuple[str, str, str]:
    if not isinstance(feature, Categorical):
        default = "" if feature.default is None else f", missing is {feature.default:g}"
        return "numeric", "", f"{feature.transform}{default}"
    many = f" x {feature.max_values}" if feature.max_values > 1 else ""
    return "categorical", feature.id_type + many, feature.table


def _row_bytes(feature: Feature) -> str:
    if isinstance(feature, Categorical):
        return f"{8 * feature.max_values} bytes"
    return "4 bytes"


def _row_lines(features: FeatureSet) -> list[str]:
    rows = [features.entity(name) for name in features.entity_names()]
    sizes = [f"{e.name} {entity_dtype(e.features).itemsize} bytes" for e in rows if e.features]
    return ["", f"rows: {', '.join(sizes)}"] if sizes else []


def _history_lines(features: FeatureSet) -> list[str]:
    history = features.history
    if history is None:
        return ["history: none"]
    from recsys.feature_store.redis.values.history import HistoryValue

    inherited = ", ".join(inherited_attributes(features)) or "none"
    age = f"{history.max_age_s:,} s" if history.max_age_s else "any age"
    ttl = f"{history.ttl_s:,} s after the last event" if history.ttl_s else "never"
    return [
        f"history: {event_dtype(features).itemsize} bytes an event, layout {layout_fingerprint(features).hex()}, "
        f"{HistoryValue(features).chunk} events a chunk",
        f"  keeps the newest {history.max_events:,} events; expires {ttl}",
        f"  a model sees the newest {history.recent:,} of {age} that happened and arrived before the request",
        f"  an event is known by its user, timestamp, {', '.join(identity_fields(features))}",
        f"  taken from the item where an event has none: {inherited}",
    ]
