"""Settings: all of a server's, read once at start, from the environment and the command line."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.errors import ConfigError, nearest
from recsys.serving.settings.access import AccessSettings
from recsys.serving.settings.field import CLIENT_PREFIX, PREFIX, allowed, check, parse, setting, shown, variable
from recsys.serving.settings.items_shard import parse_items_shard
from recsys.serving.settings.observing import ObservingSettings
from recsys.serving.settings.receiving import ReceivingSettings
from recsys.serving.settings.releases import ReleaseSettings
from recsys.serving.settings.secret_file import read_secret
from recsys.serving.settings.tables import ModelSettings
from recsys.serving.settings.tls import TlsSettings, check_wires

_log = logging.getLogger("recsys.serving")

_BUNDLE_VARIABLES = {"RECSYS_BUNDLE", "RECSYS_RETRIEVAL"}
_CLIENT = {"RECSYS_TOKEN", "RECSYS_TOKEN_FILE", "RECSYS_TOKEN_IN_CLEAR"}
_OTHERS = {"RECSYS_DATA_DIR", "RECSYS_REDIS_SERVER", "RECSYS_LOG_IDS_KEY", *_CLIENT}
"""Variables that others read: the offline side, the private Redis, clients, workers."""


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Settings of what is served, where, and how many requests at a time."""

    bundle: Path | None = setting(None, "folder of the bundle to serve; this, or releases, is required", kind=Path)
    retrieval: Path | None = setting(
        None, "folder of a retrieval bundle to serve beside it, for Retrieve and Recommend", kind=Path
    )
    items_shard: str | None = setting(
        None,
        "part of a retrieval model's items that Retrieve searches, as 2/4: the others are searched by other servers of "
        "the same bundle, docs/operate/shards.md; unset: all",
        kind=str,
    )
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 or :: for all", kind=str)
    port: int = setting(50051, "port to listen on; 0 picks a free one", kind=int, low=0, high=65535)
    redis_url: str | None = setting(
        None,
        "the feature store's Redis: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://, "
        "docs/operate/redis.md; unset: a private one in redis_dir",
        kind=str,
        env="REDIS_URL",
        url=True,
    )
    redis_dir: Path = setting(Path("runs/redis"), "folder of the private Redis", kind=Path)
    max_candidates: int = setting(10_000, "most candidates in one Rank request", kind=int, low=1, high=100_000)
    max_in_flight: int = setting(
        512,
        "requests let in at a time, per service: a bound for memory and threads; what usually refuses is time: those "
        "whose deadlines would pass while those before them are served",
        kind=int,
        low=1,
        high=100_000,
    )
    store_timeout_ms: int = setting(
        50, "longest wait for the feature store in a Rank request", kind=int, low=1, high=60_000
    )
    state_ttl_s: int = setting(
        14 * 86_400,
        "how long the state of a long history is kept after it was last written, in seconds",
        kind=int,
        low=60,
        high=366 * 86_400,
    )
    default_deadline_ms: int = setting(
        1_000, "time a request may take when its caller set no deadline", kind=int, low=1, high=600_000
    )
    drain_timeout_s: float = setting(
        20.0, "at SIGTERM, time for running requests to finish", kind=float, low=0.0, high=3_600.0
    )
    hang_timeout_s: float = setting(
        30.0,
        "time without progress after which a process counts as hung: a worker is killed and replaced, health says "
        "NOT_SERVING; 0: never",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    future_tolerance_s: int = setting(
        300, "how far in the future an event's timestamp may be (clock skew)", kind=int, low=0, high=86_400
    )
    workers: int = setting(
        1,
        "processes that serve the port together, each with one model run at a time; 0: one for each core",
        kind=int,
        low=0,
        high=256,
    )
    pin_workers: Literal["auto", "off"] = setting(
        "auto",
        "pinning of each worker to a core of its own (CPU affinity); auto: if there are as many workers as cores, "
        "and at least two",
        kind=str,
        choices=("auto", "off"),
    )
    max_added_items: int = setting(
        10_000,
        "most items that came after training in a search, of a retrieval model that makes rows of items; those that "
        "were written last stay, others are counted and logged; each takes the bytes of its row and about 300 in every "
        "worker and release (100,000 of 896 numbers: 370 MB), five times as much where all change at once; 0: none",
        kind=int,
        low=0,
        high=100_000,
    )
    added_items_interval_s: float = setting(
        0.5,
        "time between two looks at what was written of such items: so long, and no longer than twice that, until a new "
        "one is found",
        kind=float,
        low=0.01,
        high=3_600.0,
    )
    max_item_columns_mib: int = setting(
        1_024,
        "most memory, in MiB, of the values of items that requests filter by (item columns), which the workers share: "
        "some 17 bytes an item, and 4 for each value of a filterable feature; items beyond are counted and logged, and "
        "answers say degraded",
        kind=int,
        low=1,
        high=1_048_576,
    )
    item_columns_dir: Path | None = setting(
        None,
        "folder for these, best in memory, such as /dev/shm; unset: the system's folder for temporary files (TMPDIR)",
        kind=Path,
    )
    item_max_age_s: float = setting(
        60.0,
        "age at which a cached item is read again, unless item_tracking renews it earlier; 0: items are not cached",
        kind=float,
        low=0.0,
        high=86_400.0,
    )
    item_tracking: Literal["auto", "off"] = setting(
        "auto",
        "invalidation of cached items by Redis (client tracking): items that others write are renewed at once; auto: "
        "where Redis allows it",
        kind=str,
        choices=("auto", "off"),
    )


@dataclass(frozen=True, kw_only=True)
class Settings(
    AccessSettings,
    ObservingSettings,
    ReceivingSettings,
    TlsSettings,
    ModelSettings,
    ReleaseSettings,
    ServingSettings,
):
    """The server's configuration; :func:`settings_table` explains each field.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field.name, field, getattr(self, field.name))
        if ":" in self.host and not self.host.startswith("["):
            # An IPv6 address: before a port it stands in brackets.
            object.__setattr__(self, "host", f"[{self.host}]")
        if self.releases is not None and (self.bundle is not None or self.retrieval is not None):
            raise ConfigError(
                f"releases (RECSYS_RELEASES) is {str(self.releases)!r}, and a bundle is set, too (RECSYS_BUNDLE or "
                f"RECSYS_RETRIEVAL: {self.bundle or self.retrieval}); allowed: one of them"
            )
        parse_items_shard(self.items_shard)
        check_wires(self, self.port)


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
            variable=variable(f),
            default="unset" if f.default is None else str(f.default),
            allowed=allowed(f),
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
    by_variable = {variable(f): f for f in fields.values()}
    for name in overrides:
        if name not in fields:
            raise ConfigError(f"unknown setting {name!r}: {nearest(name, fields)}")
    for name in sorted(environment):
        ours = name.startswith(PREFIX) and not name.startswith(CLIENT_PREFIX)
        if ours and name not in by_variable and name not in _OTHERS:
            _log.warning("environment variable %s is not known and ignored: %s", name, nearest(name, by_variable))
    values: dict[str, Any] = {}
    if overrides.get("releases") is not None:  # an option wins over variables that say the other thing
        environment = {name: text for name, text in environment.items() if name not in _BUNDLE_VARIABLES}
    elif overrides.get("bundle") is not None:
        environment = {name: text for name, text in environment.items() if name != "RECSYS_RELEASES"}
    for name, field in fields.items():
        if overrides.get(name) is not None:
            values[name] = overrides[name]
        elif environment.get(variable(field), "") != "":
            values[name] = parse(variable(field), field, environment[variable(field)])
    if values.get("redis_url_file") is not None and overrides.get("redis_url") is None:
        values["redis_url"] = _url_of_file(values, fields["redis_url"])
    return Settings(**values)


def _url_of_file(values: Mapping[str, Any], of: dataclasses.Field[Any]) -> str:
    file = values["redis_url_file"]
    if "redis_url" in values:
        raise ConfigError(f"REDIS_URL is set, and REDIS_URL_FILE is {str(file)!r}; allowed: one of them")
    url = read_secret(file, what="REDIS_URL_FILE")
    check(f"the URL in {file}", of, url)
    return url


assert all(f.default is not MISSING for f in dataclasses.fields(Settings))


def settings_lines(settings: Settings) -> list[str]:
    """Settings in force, one ``VARIABLE=value`` per line; a Redis URL without its secrets."""
    lines = []
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        lines.append(f"{variable(field)}={'' if value is None else shown(field, value)}")
    return lines
