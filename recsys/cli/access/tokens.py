"""`recsys access token`: a new token, and the lines that let it in."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import notes
from recsys.errors import ConfigError, nearest


def token(
    name: Annotated[str, typer.Argument(help="Name of who gets it; logs and errors show it.")],
    role: Annotated[list[str], typer.Option("--role", help="What it allows: rank, read, write or admin; repeatable.")],
    days: Annotated[float, typer.Option(help="Days until it expires.", min=0.01, max=3_660)] = 90.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="New file for the token, its owner's alone (0600). Default: printed on standard error.",
        ),
    ] = None,
) -> None:
    """Make a token; print the lines of an access file that let it in.

    They hold its hash, so that who reads the file cannot call. The token itself is nowhere else: keep it, or make
    another one. `recsys access token web --role rank --out web.token >> access.toml`
    """
    from recsys.serving.rpc.access.roles import ROLES
    from recsys.serving.rpc.access.tokens import NAME, make_token, token_entry

    for each in role:
        if each not in ROLES:
            raise ConfigError(f"--role {each!r}: {nearest(each, ROLES)}")
    if not NAME.fullmatch(name):
        raise ConfigError(f"name is {name!r}; allowed: letters, digits and . _ @ / -, up to 128")
    made = make_token()
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    if out is None:
        notes.print(f"the token, shown this once: {made}", highlight=False, soft_wrap=True)
    else:
        _write(out, made)
        notes.print(f"the token is in {out}", highlight=False, soft_wrap=True)
    moment = expires.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    print(token_entry(made, name=name, roles=tuple(dict.fromkeys(role)), expires=moment), end="")


def _write(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
