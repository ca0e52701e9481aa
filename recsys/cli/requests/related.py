"""Requests that begin with no user: items `similar` to others, what is `trending`, the `audience` of items."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.cli.options import (
    ADDRESS,
    CaOption,
    CertificateOption,
    JsonOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    notes,
    output,
    tls_of,
)
from recsys.cli.requests.shared import (
    AddressOption,
    FilterOption,
    ModelOption,
    TextOption,
    TimeoutOption,
    TimingsOption,
    TopOption,
    asking,
    filter_of,
    item_ids,
    listed_items,
    outcome,
    print_list,
    who,
)


def similar(
    items: Annotated[str, typer.Option("--items", help="Ids of 1 to 100 items, comma-separated.")],
    top: TopOption = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Ids of items to leave out besides these, comma-separated; may be repeated."),
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", help="vectors, or users: whom the items share. Default: vectors, else users."),
    ] = "",
    model: ModelOption = "",
    test: FilterOption = None,
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the items most like given ones, by their vectors or by the users whom they share."""
    asked: dict[str, Any] = {"exclude": item_ids(exclude or [], text_ids), "model": model, "by": by}
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        best = client.similar(items=item_ids([items], text_ids), top_k=top, timings=timings, **asked)
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "release": best.release,
        "unknown": best.unknown,
        "by": best.by,
    }
    unknown = f"; nothing is known of {', '.join(map(str, best.unknown))}" if best.unknown else ""
    facts |= outcome(best)
    print_list(best, listed_items(best), facts, f"{who(best)}, by {best.by}{unknown}", as_json=as_json)


def trending(
    top: TopOption = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Ids of items to leave out, comma-separated; may be repeated."),
    ] = None,
    test: FilterOption = None,
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the items with most events lately, an event counting half after each half-life."""
    asked: dict[str, Any] = {"exclude": item_ids(exclude or [], text_ids)}
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        best = client.trending(top_k=top, timings=timings, **asked)
    facts = {"as_of_ms": best.as_of_ms, "half_life_s": best.half_life_s, "window_s": best.window_s, "stale": best.stale}
    summary = f"half-life {best.half_life_s:,} s"
    facts |= outcome(best)
    print_list(best, listed_items(best), facts, summary, as_json=as_json)


def audience(
    items: Annotated[str, typer.Option("--items", help="Ids of 1 to 100 items, comma-separated.")],
    top: Annotated[int, typer.Option("--top", help="Number of users.")] = 100,
    at_least: Annotated[int, typer.Option("--at-least", help="Of the items, those that a user must have.")] = 1,
    model: ModelOption = "",
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the users who have most of some items, in the log that its bundle was exported with."""
    asked: dict[str, Any] = {"top_k": top, "at_least": at_least, "model": model, "timings": timings}
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        found = client.audience(items=item_ids([items], text_ids), **asked)
    rows = list(zip(found.users.tolist(), found.shared.tolist(), found.of.tolist(), strict=True))
    if as_json:
        facts: dict[str, Any] = {"model": found.model, "model_version": found.model_version, "release": found.release}
        facts |= {"total": found.total, "unknown": found.unknown}
        facts |= {"timings_us": found.timings_us} if found.timings_us else {}
        print(json.dumps({**facts, "users": [{**_user(user), "shared": n, "of": of} for user, n, of in rows]}))
        return
    table = Table("user", "shared", "of", box=None)
    for row in rows:
        table.add_row(*map(str, row))
    output.print(table)
    unknown = f"; no user has {', '.join(map(str, found.unknown))}" if found.unknown else ""
    notes.print(f"{who(found)}: {found.total:,} users in all{unknown}", markup=False, soft_wrap=True)


def _user(user: Any) -> dict[str, int]:
    """A user for the JSON: an id, or the key of one that is a string."""
    key = getattr(user, "key", None)
    return {"user": user} if key is None else {"user_key": key}
