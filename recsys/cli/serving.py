"""Commands that serve and ask: `serve`, `rank`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.cli.options import (
    JsonOption,
    RedisOption,
    notes,
    output,
)


def serve(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle. Default: RECSYS_BUNDLE.")] = None,
    retrieval: Annotated[
        Path | None, typer.Option(help="Folder of a retrieval bundle, for Retrieve and Recommend.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one. Default 50051.")] = None,
    redis_url: RedisOption = None,
    redis_dir: Annotated[Path | None, typer.Option("--redis-dir", help="Folder of the private Redis.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve; 0: one per core. Default 1.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of the metrics page. Default: none.")] = None,
    max_candidates: Annotated[int | None, typer.Option(help="Most candidates per request. Default 10,000.")] = None,
    log_requests: Annotated[
        float | None, typer.Option(help="Share of requests whose model inputs are logged, 0 to 1. Default 0.")
    ] = None,
    request_log_dir: Annotated[Path | None, typer.Option(help="Folder of the request log (Parquet).")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Gets one JSON line once the server answers.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting and stop.")] = False,
) -> None:
    """Serve a ranking bundle, a retrieval bundle, or both over gRPC until SIGTERM.

    RECSYS_* environment variables set what options do not.
    """
    from recsys.serving.settings import read_settings

    read = read_settings(
        os.environ,
        bundle=bundle,
        retrieval=retrieval,
        host=host,
        port=port,
        redis_url=redis_url,
        redis_dir=redis_dir,
        workers=workers,
        metrics_port=metrics_port,
        max_candidates=max_candidates,
        log_requests=log_requests,
        request_log_dir=request_log_dir,
        ready_file=ready_file,
    )
    if settings:
        _print_settings(read)
        return
    from recsys.serving.process.serve import serve as run_server

    raise typer.Exit(run_server(read))


def rank(
    user: Annotated[str, typer.Option("--user", help="User id.")],
    items: Annotated[str, typer.Option("--items", help="Item ids, comma-separated; - reads them from stdin.")],
    top: Annotated[int, typer.Option("--top", help="Only the best so many; 0 for all, in the given order.")] = 10,
    model: Annotated[str, typer.Option("--model", help="Model name; default: the server's.")] = "",
    address: Annotated[str, typer.Option("--address", help="host:port of the server.")] = "127.0.0.1:50051",
    text_ids: Annotated[
        bool, typer.Option("--text-ids", help="Ids are strings, even if they look like numbers.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server to rank items for a user."""
    from recsys.client import Client

    given = sys.stdin.read().replace("\n", ",") if items == "-" else items
    texts = [text.strip() for text in given.split(",") if text.strip()]
    ids: list[Any] = texts if text_ids else [_id(text) for text in texts]
    if not text_ids and len({type(i) for i in ids}) > 1:
        ids = texts
    with Client(address, timeout_s=timeout_s) as client:
        ranking = client.rank(user=user if text_ids else _id(user), candidates=ids, top_k=top, model=model)
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


def _id(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _print_settings(read: Any) -> None:
    from recsys.serving.settings import settings_lines

    for line in settings_lines(read):
        print(line)
