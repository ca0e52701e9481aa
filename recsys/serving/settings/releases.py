"""ReleaseSettings: a served store of releases, the switch from one to another and what is watched after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """Settings of a server of releases."""

    releases: Path | None = setting(
        None,
        "store of releases to serve instead of a bundle: a folder that `recsys release push` fills; its served.json "
        "says which",
        kind=Path,
    )
    release_poll_s: float = setting(
        0.25,
        "time between two looks at served.json; 0: it is read at SIGHUP, and when the admin service is told to, only",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    release_keep_s: float = setting(
        600.0,
        "how long a release that is served no more stays loaded, for a rollback at once",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    release_replay: int = setting(
        64,
        "recorded requests that each worker puts to a new release and to the live one before a switch; 0: no replay",
        kind=int,
        low=0,
        high=256,
    )
    release_max_drift: float = setting(
        0.2,
        "largest mean difference of scores between a new release and the live one, in the replay and while watched",
        kind=float,
        low=0.0,
        high=1.0,
    )
    release_max_slowdown: float = setting(
        1.5,
        "longest time of a new release over the live one's: of the same requests in the replay, of p99 when watched",
        kind=float,
        low=1.0,
        high=1_000.0,
    )
    release_watch_s: float = setting(
        300.0,
        "how long a release is watched after it went live; beyond the bounds the server goes back by itself; 0: not",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    release_max_errors: float = setting(
        0.01,
        "largest share of calls that may fail on a watched release, beyond the share before",
        kind=float,
        low=0.0,
        high=1.0,
    )
    release_max_degraded: float = setting(
        0.1,
        "largest share of degraded answers of a watched release, beyond the share before",
        kind=float,
        low=0.0,
        high=1.0,
    )
    admin_port: int | None = setting(
        None,
        "port of the admin service (status of releases, reload) on 127.0.0.1; unset: none",
        kind=int,
        low=0,
        high=65535,
    )
