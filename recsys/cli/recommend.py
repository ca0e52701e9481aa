"""The commands that ask a running server for items: `recommend`, `retrieve`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import JsonOption, notes, output

AddressOption = Annotated[str, typer.Option("--address", help="host:port of the server.")]
UserOption = Annotated[str, typer.Option("--user", help="User id.")]
TextOption = Annotated[bool, typer.Option("--text-ids", help="The user id is a string, even if of digits.")]
TopOption = Annotated[int, typer.Option("--top", help="How many items.")]
SeenOption = Annotated[bool, typer.Option("--include-seen", help="Also items of the user's history.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]


def recommend(
    user: UserOption,
    top: TopOption = 10,
    candidates: Annotated[int, typer.Option(help="How many items are retrieved and ranked; 0: 500, or --top.")] = 0,
    include_seen: SeenOption = False,
    timings: Annotated[bool, typer.Option("--timings", help="Say what each stage took on the server.")] = False,
    address: AddressOption = "127.0.0.1:50051",
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the best items for a user: retrieve, then rank."""
    from recsys.client import Client

    with Client(address, timeout_s=timeout_s) as client:
        best = client.recommend(
            user=_user(user, text_ids), top_k=top, candidates=candidates, include_seen=include_seen, timings=timings
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
    timings: Annotated[bool, typer.Option("--timings", help="Say what each stage took on the server.")] = False,
    address: AddressOption = "127.0.0.1:50051",
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the items that its retrieval model finds for a user."""
    from recsys.client import Client

    with Client(address, timeout_s=timeout_s) as client:
        best = client.retrieve(user=_user(user, text_ids), top_k=top, include_seen=include_seen, timings=timings)
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


def _user(text: str, text_ids: bool) -> int | str:
    if text_ids:
        return text
    try:
        return int(text)
    except ValueError:
        return text
