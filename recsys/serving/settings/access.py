"""AccessSettings: who may do what, what may run unsecured, what logs say of users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """Settings of access and of secrets."""

    access_file: Path | None = setting(
        None,
        "file that says who may do what (TOML or JSON; tokens, JWT, client certificates, quotas; "
        "docs/operate/security.md), read again when it changes; unset: whoever reaches the port may do everything",
        kind=Path,
    )
    insecure: int = setting(
        0,
        "1: listen on other than loopback addresses even without TLS and without tokens or client certificates",
        kind=int,
        low=0,
        high=1,
    )
    redis_url_file: Path | None = setting(
        None,
        "file that holds the URL of the feature store's Redis, in place of REDIS_URL: a password in it is in no "
        "environment and on no command line",
        kind=Path,
        env="REDIS_URL_FILE",
    )
    log_ids: Literal["hashed", "plain"] = setting(
        "hashed",
        "ids of users and items in log lines: keyed hashes, or as they are",
        kind=str,
        choices=("hashed", "plain"),
    )
    log_ids_key_file: Path | None = setting(
        None,
        "file with the key of these hashes, so that they are the same after a restart and on all servers; unset: a "
        "key of each start, shared by its workers",
        kind=Path,
    )
