"""Requests to a running server: `rank` given items, `recommend` or `retrieve` some."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import ADDRESS, JsonOption, notes, output

AddressOption = Annotated[str, typer.Option("--address", help="The server: host:port, or a host alone (port 50051).")]
UserOption = Annotated[str, typer.Option("--user", help="User id.")]
TextOption = Annotated[bool, typer.Option("--text-ids", help="The user id is a string, even if of digits.")]
TopOption = Annotated[int, typer.Option("--top", help="Number of items.")]
SeenOption = Annotated[bool, typer.Option("--include-seen", help="Include items of the user's history.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]


def rank(
    user: UserOption,
    items: Annotated[str, typer.Option("--items", help="Item ids, comma-separated; - reads them from stdin.")],
    top: Annotated[int, typer.Option("--top", help="Only the best so many; 0 for all, in the given order.")] = 10,
    model: Annotated[str, typer.Option("--model", help="Model name; default: the server's.")] = "",
    address: AddressOption = ADDRESS,
    text_ids: Annotated[
        bool, typer.Option("--text-ids", help="Ids are strings, even if they look like numbers.")
    ] = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server to rank items for a user."""
    from recsys.client import Client

    given = sys.stdin.read().replace("\n", ",") if items == "-" else items
    texts = [text.strip() for text in given.split(",") if text.strip()]
    ids: list[Any] = [_id(text, text_ids) for text in texts]
    if not text_ids and len({type(i) for i in ids}) > 1:
        ids = texts
    with Client(address, timeout_s=timeout_s) as client:
        ranking = client.rank(user=_id(user, text_ids), candidates=ids, top_k=top, model=model)
    if as_json:
        facts: dict[str, Any] = {"model": ranking.model, "model_version": ranking.model_version}
        facts |= {"history_events": ranking.history_events, "degraded": list(ranking.degraded)}
        scored = [{"item": i, "score": float(s)} for i, s in zip(ranking.items, ranking.scores, strict=True)]
        print(json.dumps({**facts, "ranking": scored}))
        return
    table = Table("rank" if top else "position", "item", "score", box=None)
    for number, (item, score) in enumerate(zip(ranking.items, ranking.scores, strict=True), start=1):
        table.add_row(str(number), str(item), f"{score:.4f}")
    output.print(table)
    degraded = f"; degraded: {', '.join(ranking.degraded)}" if ranking.degraded else ""
    notes.print(f"{ranking.model} {ranking.model_version}, {ranking.history_events} events of history{degraded}")


def recommend(
    user: UserOption,
    top: TopOption = 10,
    candidates: Annotated[int, typer.Option(help="Items retrieved and then ranked; 0: 500, or --top.")] = 0,
    include_seen: SeenOption = False,
    timings: Annotated[bool, typer.Option("--timings", help="Print the time of each stage on the server.")] = False,
    address: AddressOption = ADDRESS,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the best items for a user: retrieve, then rank."""
    from recsys.client import Client

    with Client(address, timeout_s=timeout_s) as client:
        best = client.recommend(
            user=_id(user, text_ids), top_k=top, candidates=candidates, include_seen=include_seen, timings=timings
        )
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "retrieval_model": best.retrieval_model,
        "retrieval_model_version": best.retrieval_model_version,
        "user_known": best.user_known,
        "history_events": best.history_events,
        "candidates": best.candidates,
    }
    _print(best, facts, as_json=as_json)
    if not as_json:
        known = "" if best.user_known else "; the retrieval model does not know the user: the most popular items"
        notes.print(
            f"best of {best.candidates} of {best.retrieval_model}, ranked by {best.model} "
            f"from {best.history_events} events{known}{_degraded(best)}"
        )


def retrieve(
    user: UserOption,
    top: TopOption = 100,
    include_seen: SeenOption = False,
    timings: Annotated[bool, typer.Option("--timings", help="Print the time of each stage on the server.")] = False,
    address: AddressOption = ADDRESS,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the items that its retrieval model finds for a user."""
    from recsys.client import Client

    with Client(address, timeout_s=timeout_s) as client:
        best = client.retrieve(user=_id(user, text_ids), top_k=top, include_seen=include_seen, timings=timings)
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "user_known": best.user_known,
        "history_events": best.history_events,
    }
    _print(best, facts, as_json=as_json)
    if not as_json:
        known = "" if best.user_known else "; the model does not know the user: the most popular items"
        notes.print(f"{best.model} {best.model_version}, {best.history_events} events left out{known}{_degraded(best)}")


def _print(best: Any, facts: dict[str, Any], *, as_json: bool) -> None:
    rows = list(zip(best.items.tolist(), best.scores.tolist(), strict=True))
    if as_json:
        facts |= {"degraded": list(best.degraded)} | ({"timings_us": best.timings_us} if best.timings_us else {})
        print(json.dumps({**facts, "items": [{"item": item, "score": score} for item, score in rows]}))
        return
    table = Table("rank", "item", "score", box=None)
    for number, (item, score) in enumerate(rows, start=1):
        table.add_row(str(number), Text(str(item)), f"{score:.4f}")  # Text: a name is no markup
    output.print(table)
    if best.timings_us:
        notes.print(", ".join(f"{stage} {us} us" for stage, us in best.timings_us.items() if us))


def _degraded(best: Any) -> str:
    return f"; degraded: {', '.join(best.degraded)}" if best.degraded else ""


def _id(text: str, text_ids: bool) -> int | str:
    if text_ids:
        return text
    try:
        return int(text)
    except ValueError:
        return text
