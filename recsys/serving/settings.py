"""Settings of the server. Read once at start, from the environment and the command line.

Every setting is one field of :class:`Settings`; its environment variable, type, range and meaning
are written next to it, and :func:`settings_table` makes the documentation from them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

from recsys.errors import ConfigError, nearest
from recsys.feature_store.redis.link.schemes import SCHEMES
from recsys.operators import Operators

_log = logging.getLogger("recsys.serving")

_PREFIX = "RECSYS_"
_BUNDLE_VARIABLES = {"RECSYS_BUNDLE", "RECSYS_RETRIEVAL"}
_OFFLINE = {"RECSYS_DATA_DIR", "RECSYS_REDIS_SERVER"}
"""Variables that others read: of the offline side, and of the private Redis."""


def _setting(
    default: Any,
    meaning: str,
    *,
    kind: type,
    env: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"meaning": meaning, "kind": kind, "env": env, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's configuration; :func:`settings_table` explains each field.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    bundle: Path | None = _setting(None, "folder of the bundle to serve; this, or releases, is required", kind=Path)
    retrieval: Path | None = _setting(
        None, "folder of a retrieval bundle to serve beside it, for Retrieve and Recommend", kind=Path
    )
    releases: Path | None = _setting(
        None,
        "store of releases to serve instead of a bundle: a folder that `recsys release push` fills; its served.json "
        "says which",
        kind=Path,
    )
    release_poll_s: float = _setting(
        0.25,
        "time between two looks at served.json; 0: it is read at SIGHUP, and when the admin service is told to, only",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    release_keep_s: float = _setting(
        600.0,
        "how long a release that is served no more stays loaded, for a rollback at once",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    release_replay: int = _setting(
        64,
        "recorded requests that each worker puts to a new release and to the live one before a switch; 0: no replay",
        kind=int,
        low=0,
        high=256,
    )
    release_max_drift: float = _setting(
        0.2,
        "largest mean difference of scores between a new release and the live one, in the replay and while watched",
        kind=float,
        low=0.0,
        high=1.0,
    )
    release_max_slowdown: float = _setting(
        1.5,
        "longest time of a new release over the live one's: of the same requests in the replay, of p99 when watched",
        kind=float,
        low=1.0,
        high=1_000.0,
    )
    release_watch_s: float = _setting(
        300.0,
        "how long a release is watched after it went live; beyond the bounds the server goes back by itself; 0: not",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    release_max_errors: float = _setting(
        0.01,
        "largest share of calls that may fail on a watched release, beyond the share before",
        kind=float,
        low=0.0,
        high=1.0,
    )
    release_max_degraded: float = _setting(
        0.1,
        "largest share of degraded answers of a watched release, beyond the share before",
        kind=float,
        low=0.0,
        high=1.0,
    )
    admin_port: int | None = _setting(
        None,
        "port of the admin service (status of releases, reload) on 127.0.0.1; unset: none",
        kind=int,
        low=0,
        high=65535,
    )
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 or :: for all", kind=str)
    port: int = _setting(50051, "port to listen on; 0 picks a free one", kind=int, low=0, high=65535)
    metrics_port: int | None = _setting(
        None,
        "port of the metrics page (GET /metrics, for Prometheus) on host; unset: none",
        kind=int,
        low=0,
        high=65535,
    )
    redis_url: str | None = _setting(
        None,
        "the feature store's Redis: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://, "
        "docs/redis.md; unset: a private one in redis_dir",
        kind=str,
        env="REDIS_URL",
    )
    redis_dir: Path = _setting(Path("runs/redis"), "folder of the private Redis", kind=Path)
    max_candidates: int = _setting(10_000, "most candidates in one Rank request", kind=int, low=1, high=100_000)
    max_in_flight: int = _setting(
        64, "requests served at a time, per service; more are refused", kind=int, low=1, high=100_000
    )
    store_timeout_ms: int = _setting(
        50, "longest wait for the feature store in a Rank request", kind=int, low=1, high=60_000
    )
    state_ttl_s: int = _setting(
        14 * 86_400,
        "how long the state of a long history is kept after it was last written, in seconds",
        kind=int,
        low=60,
        high=366 * 86_400,
    )
    default_deadline_ms: int = _setting(
        1_000, "time a request may take when its caller set no deadline", kind=int, low=1, high=600_000
    )
    drain_timeout_s: float = _setting(
        20.0, "at SIGTERM, time for running requests to finish", kind=float, low=0.0, high=3_600.0
    )
    hang_timeout_s: float = _setting(
        30.0,
        "time without progress after which a process counts as hung: a worker is killed and replaced, health says "
        "NOT_SERVING; 0: never",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    future_tolerance_s: int = _setting(
        300, "how far in the future an event's timestamp may be (clock skew)", kind=int, low=0, high=86_400
    )
    workers: int = _setting(
        1,
        "processes that serve the port together, each with one model run at a time; 0: one for each core",
        kind=int,
        low=0,
        high=256,
    )
    pin_workers: Literal["auto", "off"] = _setting(
        "auto",
        "pinning of each worker to a core of its own (CPU affinity); auto: if there are as many workers as cores, "
        "and at least two",
        kind=str,
        choices=("auto", "off"),
    )
    intra_op_threads: int = _setting(
        1, "threads inside one model run; more only helps a mostly idle server", kind=int, low=1, high=256
    )
    operators: Operators = _setting(
        "auto",
        "operators that compute the functions in a ranking bundle's graphs; auto: recsys's compiled ones (for int8 "
        "products with AVX-512 VNNI only); standard: ONNX Runtime's only",
        kind=str,
        choices=("auto", "standard"),
    )
    item_max_age_s: float = _setting(
        60.0,
        "age at which a cached item is read again, unless item_tracking renews it earlier; 0: items are not cached",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    item_tracking: Literal["auto", "off"] = _setting(
        "auto",
        "invalidation of cached items by Redis (client tracking): items that others write are renewed at once; auto: "
        "where Redis allows it",
        kind=str,
        choices=("auto", "off"),
    )
    verify: Literal["full", "sizes"] = _setting(
        "full",
        "check of the bundle at start: full hashes every file (1 GB/s), sizes only looks at sizes",
        kind=str,
        choices=("full", "sizes"),
    )
    read_ahead_s: float = _setting(
        10.0,
        "page read-ahead: longest time spent at start on reading hot ids' rows into memory; 0: none. Other rows "
        "are read from disk when asked for",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    read_ahead_ids: Path | None = _setting(
        None,
        "file of hot ids (.npz with int64 arrays users and items); unset: the bundle's own, if its tables are not in "
        "memory already",
        kind=Path,
    )
    table_reads: Literal["auto", "random", "ahead"] = _setting(
        "auto",
        "reads of table pages that are not in memory: with their neighbours (ahead), or one by one (random); auto: "
        "random where the tables are larger than the free memory, or, with releases, those of two larger than all "
        "memory",
        kind=str,
        choices=("auto", "random", "ahead"),
    )
    log_requests: float = _setting(
        0.0,
        "share of Rank requests whose model inputs and answers are logged to request_log_dir, for `recsys parity` and "
        "`recsys prepare --requests`",
        kind=float,
        low=0.0,
        high=1.0,
    )
    request_log_dir: Path = _setting(Path("runs/requests"), "folder of the request log (Parquet files)", kind=Path)
    ready_file: Path | None = _setting(
        None, "file that gets one JSON line with the address once the server answers", kind=Path
    )

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            _check(setting.name, setting, getattr(self, setting.name))
        if ":" in self.host and not self.host.startswith("["):
            # An IPv6 address: before a port it stands in brackets.
            object.__setattr__(self, "host", f"[{self.host}]")
        if self.releases is not None and (self.bundle is not None or self.retrieval is not None):
            raise ConfigError(
                f"releases is {str(self.releases)!r}, and a bundle is set, too ({self.bundle or self.retrieval}); "
                "allowed: one of them"
            )


def bundle_folder(settings: Settings) -> Path:
    """The bundle's folder.

    Raises:
        ConfigError: none is set.
    """
    if settings.bundle is None:
        raise ConfigError(
            "bundle is not set; give the folder of a bundle (RECSYS_BUNDLE): `recsys export` writes one; or of a store "
            "of releases (RECSYS_RELEASES): `recsys release push` fills one"
        )
    return settings.bundle


@dataclass(frozen=True)
class SettingDoc:
    """One row of the settings' documentation."""

    name: str
    variable: str
    default: str
    allowed: str
    meaning: str


def settings_table() -> tuple[SettingDoc, ...]:
    """Every setting: field, environment variable, default, allowed values, meaning."""
    return tuple(
        SettingDoc(
            name=f.name,
            variable=_variable(f),
            default="unset" if f.default is None else str(f.default),
            allowed=_allowed(f),
            meaning=f.metadata["meaning"],
        )
        for f in dataclasses.fields(Settings)
    )


def read_settings(environment: Mapping[str, str], **overrides: Any) -> Settings:
    """Settings from the environment; ``overrides`` (by field name; ``None`` for not given) win.

    An unknown ``RECSYS_*`` variable is ignored with a warning that names the nearest known one: an
    old server must start under a newer deployment's environment.

    Raises:
        ConfigError: a value is of the wrong type or out of range, or an override is unknown.

    >>> read_settings({"RECSYS_PORT": "0"}, host="0.0.0.0").port
    0
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    by_variable = {_variable(f): f for f in fields.values()}
    for name in overrides:
        if name not in fields:
            raise ConfigError(f"unknown setting {name!r}: {nearest(name, fields)}")
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in by_variable and name not in _OFFLINE:
            _log.warning("environment variable %s is not known and ignored: %s", name, nearest(name, by_variable))
    values: dict[str, Any] = {}
    if overrides.get("releases") is not None:  # an option wins over variables that say the other thing
        environment = {name: text for name, text in environment.items() if name not in _BUNDLE_VARIABLES}
    elif overrides.get("bundle") is not None:
        environment = {name: text for name, text in environment.items() if name != "RECSYS_RELEASES"}
    for name, setting in fields.items():
        variable = _variable(setting)
        if overrides.get(name) is not None:
            values[name] = overrides[name]
        elif environment.get(variable, "") != "":
            values[name] = _parse(variable, setting, environment[variable])
    return Settings(**values)


def _variable(setting: dataclasses.Field[Any]) -> str:
    return setting.metadata["env"] or _PREFIX + setting.name.upper()


def _parse(variable: str, setting: dataclasses.Field[Any], text: str) -> Any:
    try:
        value = setting.metadata["kind"](text)
    except ValueError:
        raise ConfigError(f"{variable} is {text!r}; allowed: {_allowed(setting)}") from None
    _check(variable, setting, value)
    return value


def _check(name: str, setting: dataclasses.Field[Any], value: Any) -> None:
    """Complain about ``value`` under the name its sender knows: the variable, or the field."""
    meta = setting.metadata
    if value is None and setting.default is None:
        return
    kinds = (int, float) if meta["kind"] is float else (meta["kind"],)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if fits and meta["kind"] in (int, float):
        fits = meta["low"] <= value <= meta["high"]
    if fits and meta["choices"]:
        fits = value in meta["choices"]
    if fits and setting.name == "redis_url":
        fits = value.startswith(SCHEMES)
    if not fits:
        raise ConfigError(f"{name} is {_shown(value)}; allowed: {_allowed(setting)}")


def _shown(value: Any) -> str:
    """A URL may hold a password: errors and logs show none."""
    if isinstance(value, str) and "@" in value:
        return repr("***@" + value.rpartition("@")[2])
    return repr(value)


def _allowed(setting: dataclasses.Field[Any]) -> str:
    meta = setting.metadata
    if setting.name == "redis_url":
        return "a URL that starts with " + ", ".join(SCHEMES)
    if meta["choices"]:
        return ", ".join(meta["choices"])
    if meta["kind"] in (int, float):
        word = "whole numbers" if meta["kind"] is int else "numbers"
        return f"{word} from {meta['low']:,} to {meta['high']:,}"
    return "a path" if meta["kind"] is Path else "any text"


assert all(f.default is not MISSING for f in dataclasses.fields(Settings))


def settings_lines(settings: Settings) -> list[str]:
    """Settings in force, one ``VARIABLE=value`` per line; a Redis URL without its password."""
    lines = []
    for row in settings_table():
        value = getattr(settings, row.name)
        text = "" if value is None else str(value)
        lines.append(f"{row.variable}={_shown(value) if '@' in text else text}")
    return lines
