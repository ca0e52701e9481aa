"""Policy: the access file, strictly read: what is not understood is an error. Examples: docs/operate/security.md."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from recsys.errors import ConfigError, nearest
from recsys.serving.rpc.access.identity import Identity, Quota
from recsys.serving.rpc.access.roles import ROLES
from recsys.serving.rpc.access.tokens import NAME
from recsys.serving.rpc.access.web_tokens import WebTokens, read_keys

FORMAT = 1
_MOST_BYTES = 4 << 20
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+")
_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures by a private key. Those by a shared secret (HS256) are none: whoever checks them could also make them, and
a public key taken for such a secret lets everybody in."""


@dataclass(frozen=True, kw_only=True)
class StaticToken:
    """A token that is let in.

    Attributes:
        sha256: of the token; 32 bytes.
        identity: of who has it.
        expires_s: seconds since 1970.
    """

    sha256: bytes = field(repr=False)
    identity: Identity
    expires_s: float


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Content of an access file.

    Attributes:
        tokens: by their hashes.
        spiffe: identities by SPIFFE id.
        web_tokens: checks JWTs; None: none is taken.
        contents: of the files that it was read from.
    """

    tokens: Mapping[bytes, StaticToken] = field(repr=False)
    spiffe: Mapping[str, Identity]
    web_tokens: WebTokens | None
    contents: Mapping[Path, bytes] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from."""
        return tuple(self.contents)


def read_policy(path: Path, *, contents: Mapping[Path, bytes] | None = None) -> Policy:
    """Read an access file (TOML, or JSON if its name ends with ``.json``) and the file of keys that it names.

    Args:
        path: of the file.
        contents: of an earlier policy, to be read in place of the files; None: the files are read.

    Raises:
        ConfigError: it cannot be read, or is not understood; the message names the entry, and shows no hash.
    """
    read = dict[Path, bytes]()

    def content(file: Path, what: str) -> bytes:
        read[file] = _content(file, what) if contents is None else contents[file]
        return read[file]

    given = _parsed(path, content(path, "access_file"))
    whole = _Table(given, f"{path}", required=("format",), optional=("tokens", "jwt", "spiffe", "quota"))
    if whole.values["format"] != FORMAT or isinstance(whole.values["format"], bool):
        whole.refuse("format", f"{FORMAT}, the one that this program reads")
    default = _quota(whole.table("quota", optional=("calls_per_s", "events_per_s")), Quota())
    tokens = _tokens(whole, default)
    spiffe: dict[str, Identity] = {}
    for entry in whole.tables("spiffe", required=("id", "roles"), optional=("calls_per_s", "events_per_s")):
        name = entry.text("id", _SPIFFE, "a SPIFFE id, spiffe://DOMAIN/PATH")
        if name in spiffe:
            entry.refuse("id", "each SPIFFE id once")
        spiffe[name] = Identity(name=name, roles=entry.roles("roles"), quota=_quota(entry, default))
    web_tokens = _web_tokens(whole, path, default, content)
    if not tokens and not spiffe and web_tokens is None:
        raise ConfigError(f"{path}: lets nobody in; allowed: at least one of [[tokens]], [jwt], [[spiffe]]")
    return Policy(tokens=tokens, spiffe=spiffe, web_tokens=web_tokens, contents=read)


def _tokens(whole: _Table, default: Quota) -> dict[bytes, StaticToken]:
    tokens: dict[bytes, StaticToken] = {}
    names: set[str] = set()
    required = ("name", "roles", "sha256", "expires")
    for entry in whole.tables("tokens", required=required, optional=("calls_per_s", "events_per_s")):
        name = entry.text("name", NAME, "letters, digits and . _ @ / -, up to 128")
        if name in names:
            entry.refuse("name", "each name once")
        digest = bytes.fromhex(entry.text("sha256", re.compile("[0-9a-f]{64}"), "64 hexadecimal digits", hidden=True))
        if digest in tokens:
            entry.refuse("sha256", "each token once", hidden=True)
        identity = Identity(name=f"token:{name}", roles=entry.roles("roles"), quota=_quota(entry, default))
        tokens[digest] = StaticToken(sha256=digest, identity=identity, expires_s=entry.moment("expires"))
        names.add(name)
    return tokens


def _web_tokens(whole: _Table, path: Path, default: Quota, content: Callable[[Path, str], bytes]) -> WebTokens | None:
    required = ("issuer", "audience", "algorithms", "jwks_file", "roles_claim", "roles")
    entry = whole.table("jwt", required=required, optional=("calls_per_s", "events_per_s"))
    if entry is None:
        return None
    any_text = re.compile(r"\S(.{0,510}\S)?")
    algorithms = entry.texts("algorithms", _ALGORITHMS)
    keys_file = path.parent / entry.text("jwks_file", any_text, "the path of a JWKS file")
    roles = _Table(entry.values["roles"], f"{entry.where}.roles", optional=None)
    return WebTokens(
        issuer=entry.text("issuer", any_text, "a text"),
        audience=entry.text("audience", any_text, "a text"),
        keys=read_keys(content(keys_file, "jwks_file"), algorithms, path=keys_file),
        algorithms=algorithms,
        roles_claim=entry.text("roles_claim", any_text, "the name of a claim"),
        roles={value: roles.roles(value) for value in roles.values},
        quota=_quota(entry, default),
    )


def _quota(entry: _Table | None, default: Quota) -> Quota:
    if entry is None:
        return default
    return Quota(
        calls_per_s=entry.rate("calls_per_s", default.calls_per_s),
        events_per_s=entry.rate("events_per_s", default.events_per_s),
    )


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{what} {str(path)!r}: more than {_MOST_BYTES:,} bytes")
    return data


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data) if path.suffix == ".json" else tomllib.loads(data.decode())
    except RecursionError:
        raise ConfigError(f"access_file {str(path)!r}: nested too deeply") from None
    except ValueError as error:  # both parsers', and of bytes that are no text; none quotes a value
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"access_file {str(path)!r} is no {kind}: {error}") from None


class _Table:
    """A table of the file, whose keys are known.

    Args:
        values: as parsed.
        where: names it in errors.
        required: keys that must be there.
        optional: keys that may; None: any.
    """

    def __init__(
        self, values: Any, where: str, *, required: Collection[str] = (), optional: Collection[str] | None = ()
    ) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {_kind(values)}; allowed: a table of keys and values")
        known = None if optional is None else {*required, *optional}
        for key in values:
            if known is not None and key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}: {nearest(key, known)}")
        for key in required:
            if key not in values:
                raise ConfigError(f"{where}: {key} is missing")
        self.values: dict[str, Any] = values
        self.where = where

    def refuse(self, key: str, allowed: str, *, hidden: bool = False) -> NoReturn:
        """ConfigError that says what is allowed; ``hidden``: the value is not shown."""
        value = "" if hidden else f" is {self.values[key]!r}"
        raise ConfigError(f"{self.where}: {key}{value}; allowed: {allowed}")

    def table(self, key: str, *, required: Collection[str] = (), optional: Collection[str] = ()) -> _Table | None:
        """The table under a key, if there is one."""
        if key not in self.values:
            return None
        return _Table(self.values[key], f"{self.where}: {key}", required=required, optional=optional)

    def tables(self, key: str, *, required: Collection[str], optional: Collection[str]) -> Iterator[_Table]:
        """The tables of the list under a key."""
        listed = self.values.get(key, [])
        if not isinstance(listed, list):
            self.refuse(key, "a list of tables", hidden=True)
        for place, each in enumerate(listed):
            yield _Table(each, f"{self.where}: {key}[{place}]", required=required, optional=optional)

    def text(self, key: str, pattern: re.Pattern[str], allowed: str, *, hidden: bool = False) -> str:
        """A text that matches as a whole."""
        value = self.values[key]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(key, allowed, hidden=hidden)
        return value

    def texts(self, key: str, choices: Collection[str]) -> tuple[str, ...]:
        """A list of at least one of the choices."""
        value = self.values[key]
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v in choices for v in value):
            self.refuse(key, f"a list of some of {', '.join(choices)}")
        return tuple(value)

    def roles(self, key: str) -> frozenset[str]:
        """A list of roles."""
        return frozenset(self.texts(key, tuple(ROLES)))

    def rate(self, key: str, default: float | None) -> float | None:
        """A number per second, above 0."""
        value = self.values.get(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
            self.refuse(key, "a number above 0, up to 1,000,000,000")
        return float(value)

    def moment(self, key: str) -> float:
        """A moment with an offset, as TOML's or as ISO 8601 text; seconds since 1970."""
        value = self.values[key]
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError:
                value = None
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            self.refuse(key, "a moment like 2027-01-31T12:00:00Z, with its offset")
        return value.timestamp()


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}.get(
        type(value), type(value).__name__
    )
