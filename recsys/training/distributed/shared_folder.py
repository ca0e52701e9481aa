"""The folder of a run, which all hosts must share: a checkpoint is of parts, and each process writes its own."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from recsys.errors import ConfigError
from recsys.files import make_folder
from recsys.training.distributed.processes import broadcast, gather, on_first, world


def check_shared(folder: Path) -> None:
    """Refuse a folder that is another one on another host; every process calls it.

    Args:
        folder: made if absent.

    Raises:
        ConfigError: a process does not see what the first one wrote there, or the first one cannot write.
    """
    if world().size == 1:
        return
    # A new name: a network file system may remember for a while that another one was not there.
    name = f".shared-{broadcast(secrets.token_hex(8))}"

    def write() -> None:
        make_folder(folder)
        try:
            (folder / name).touch()
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error

    on_first(write)
    seen = gather((socket.gethostname(), (folder / name).exists()))
    if world().rank == 0:
        (folder / name).unlink(missing_ok=True)
    if without := sorted({f"process {rank} on host {host}" for rank, (host, sees) in enumerate(seen) if not sees}):
        raise ConfigError(
            f"{folder} of process 0 on host {seen[0][0]} is another folder than that of {', '.join(without)}; "
            "put it on a file system that all hosts share, at the same path"
        )
