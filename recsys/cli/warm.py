"""``recsys warm``: states of long histories before a bundle is served."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli.options import REDIS_DIR, JsonOption, RedisDirOption, RedisOption, notes, output

if TYPE_CHECKING:
    from recsys.serving.long_history.precompute import Warmed

_TTL_S = 14 * 86_400


def warm(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle whose model sums long histories (sdim).")],
    processes: Annotated[int, typer.Option(help="How many compute at a time, each on one core.", min=1)] = 1,
    ttl_s: Annotated[
        int, typer.Option("--ttl-s", help="Seconds for which a state is kept; as RECSYS_STATE_TTL_S.", min=60)
    ] = _TTL_S,
    redis_url: RedisOption = None,
    redis_dir: RedisDirOption = REDIS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Compute the states of all users with a long history before a new bundle is served. Can be run again."""
    from recsys.bundle import open_bundle
    from recsys.feature_store.embedded.open_redis import redis_or_embedded
    from recsys.progress import BatchProgress
    from recsys.serving.long_history.precompute import warm as compute

    opened = open_bundle(bundle)
    progress = BatchProgress(notes)

    def report(done: Warmed, total: int) -> None:
        progress.batch_done(lambda: _told(done), lambda: _left(done, total))

    with redis_or_embedded(redis_url, redis_dir) as url:
        try:
            done = compute(opened, url, ttl_s=ttl_s, processes=processes, progress=report)
        except BaseException as error:
            progress.broken_off(error)
            raise
    if as_json:
        print(json.dumps({**dataclasses.asdict(done), "users_per_s": round(done.users_per_s)}))
    else:
        output.print(_told(done), highlight=False, soft_wrap=True)
    if not done.users:
        notes.print(f"the store holds no history of FeatureSet {opened.features.name!r}, the bundle's")
    if done.refused:
        notes.print(f"{done.refused:,} users' keys hold bytes that are not ours, and were left as they are")
        raise typer.Exit(4)


def _told(done: Warmed) -> str:
    return (
        f"{done.users:,} users in {done.elapsed_s:.1f} s ({done.users_per_s:,.0f} users/s): {done.written:,} states "
        f"written, {done.kept:,} good already, {done.short:,} users need none"
    )


def _left(done: Warmed, total: int) -> str:
    return f"; {(total - done.users) / max(done.users_per_s, 1e-9):,.0f} s left"
