"""Options that several commands share, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

notes = Console(stderr=True)
output = Console()

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder or zip of the raw data: an original ml-1m, or a folder that holds one. Default: "
        "RECSYS_DATA_DIR, then ../shared/data, then a download.",
    ),
]
WorkOption = Annotated[Path, typer.Option("--work-dir", help="Where downloads and prepared data are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        help="The feature store's Redis: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://; "
        "docs/redis.md. Default: a private one in --redis-dir.",
    ),
]
RedisDirOption = Annotated[
    Path, typer.Option("--redis-dir", envvar="RECSYS_REDIS_DIR", help="Folder of the private Redis.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, for example train.epochs=3 model.softmax=true.")
]
WORK_DIR = Path("runs")
REDIS_DIR = Path("runs/redis")


def where_data_is(data: Path | None, work_dir: Path) -> str:
    """The options that a following command needs to find the same data."""
    given = "" if data is None else f" --data {data}"
    return given if work_dir == WORK_DIR else f"{given} --work-dir {work_dir}"
