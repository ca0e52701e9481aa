"""`recsys access check`: an access file, read as a server reads it."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import JsonOption, notes, output


def check(
    file: Annotated[Path, typer.Argument(help="Access file, TOML or JSON.")], as_json: JsonOption = False
) -> None:
    """Read an access file as a server does, and list whom it lets in; exit code 2 if it is bad."""
    from recsys.serving.rpc.access.policy import read_policy

    policy = read_policy(file)
    rows: list[dict[str, Any]] = []
    for token in policy.tokens.values():
        rows.append({**_row(token.identity), "expires": _moment(token.expires_s)})
    rows.extend(_row(identity) for identity in policy.spiffe.values())
    if policy.web_tokens is not None:
        rows.extend(policy.web_tokens.described())
    expired = [token.identity.name for token in policy.tokens.values() if token.expires_s <= time.time()]
    if as_json:
        print(json.dumps({"callers": rows, "expired": expired}))
        return
    table = Table("caller", "roles", "expires", "calls/s", "events/s", box=None)
    for row in rows:
        rates = [f"{row[name]:g}" if row.get(name) else "-" for name in ("calls_per_s", "events_per_s")]
        table.add_row(Text(row["caller"]), ", ".join(row["roles"]), row.get("expires", "-"), *rates)
    output.print(table)
    for name in expired:
        notes.print(f"{name} has expired", markup=False, soft_wrap=True)


def _row(identity: Any) -> dict[str, Any]:
    quota = identity.quota
    row = {"caller": identity.name, "roles": sorted(identity.roles)}
    return {**row, "calls_per_s": quota.calls_per_s, "events_per_s": quota.events_per_s}


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")
