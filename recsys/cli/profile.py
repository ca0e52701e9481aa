"""The command that shows where a request's time goes: `profile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import JsonOption, RedisOption, notes, output


def profile(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    redis_url: RedisOption = None,
    history: Annotated[
        int | None, typer.Option(help="Events of each made user, without --redis-url. Default 1,000.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Candidates per request.")] = 200,
    requests: Annotated[int, typer.Option(help="Requests that are measured.")] = 300,
    core: Annotated[int | None, typer.Option(help="Core to run on. Default: the last one.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Also draw it here; needs the training packages.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a Rank request's microseconds go, stage by stage and operator by operator.

    Real requests go through the server's own path in this process, without gRPC: users of the store at --redis-url, or
    made ones in a private Redis. Beside it stands the time of the matrix products at this machine's speed.
    """
    from recsys.profile.measure import profile_bundle
    from recsys.profile.report import as_json as to_json
    from recsys.profile.report import charts, print_profile

    found = profile_bundle(
        bundle, redis_url=redis_url, history=history, candidates=candidates, requests=requests, core=core
    )
    if as_json:
        print(json.dumps(to_json(found)))
    else:
        print_profile(found, output)
    if png is not None:
        from recsys.plots import write_png

        write_png(charts(found), png)
        notes.print(f"drawn: {png}")
