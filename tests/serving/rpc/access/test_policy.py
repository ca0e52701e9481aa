"""The access file is read strictly: what is not understood is an error that names it, and shows no hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.access import LONG_AFTER, Issuer, jwt_entry, token_of, write_access

from recsys.errors import ConfigError
from recsys.serving.rpc.access.identity import Quota
from recsys.serving.rpc.access.policy import read_policy
from recsys.serving.rpc.access.tokens import hash_token

HASH = "ab" * 32
TOKEN = f'[[tokens]]\nname = "web"\nroles = ["rank"]\nsha256 = "{HASH}"\nexpires = {LONG_AFTER}\n'
SPIFFE = '[[spiffe]]\nid = "spiffe://example.org/web"\nroles = ["rank", "read"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.toml"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    made = Issuer()
    made.add_rsa("first")
    return made


def test_a_token_is_known_by_its_hash_with_name_roles_and_end(file: Path) -> None:
    token, entry = token_of("rank", "read", name="web", expires="2030-01-01T01:00:00+01:00")
    (found,) = read_policy(write_access(file, entry)).tokens.values()
    assert found.sha256 == hash_token(token) and token not in file.read_text()
    assert (found.identity.name, found.identity.roles) == ("token:web", {"rank", "read"})
    assert found.expires_s == 1_893_456_000


def test_a_quota_of_the_file_is_everybodys_who_has_none(file: Path) -> None:
    _, other = token_of("rank", name="other", more="events_per_s = 5\n")
    policy = read_policy(write_access(file, TOKEN, other, SPIFFE, quota="[quota]\ncalls_per_s = 2.5\n"))
    quotas = {token.identity.name: token.identity.quota for token in policy.tokens.values()}
    assert quotas == {"token:web": Quota(calls_per_s=2.5), "token:other": Quota(calls_per_s=2.5, events_per_s=5)}
    assert policy.spiffe["spiffe://example.org/web"].quota == Quota(calls_per_s=2.5)


def test_json_says_the_same_as_toml(file: Path, tmp_path: Path) -> None:
    entry = {"name": "web", "roles": ["rank"], "sha256": HASH, "expires": LONG_AFTER}
    other = tmp_path / "access.json"
    other.write_text(json.dumps({"format": 1, "tokens": [entry]}))
    assert read_policy(other).tokens == read_policy(write_access(file, TOKEN)).tokens


def test_a_policy_and_its_tokens_show_no_hash(file: Path) -> None:
    policy = read_policy(write_access(file, TOKEN))
    shown = repr(policy) + repr(list(policy.tokens.values()))
    assert HASH not in shown and repr(bytes.fromhex(HASH)) not in shown and "token:web" in shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "format is missing"),
        ("format = 2\n" + TOKEN, "format is 2; allowed: 1"),
        ("format = true\n" + TOKEN, "format is True; allowed: 1"),
        ("format = 1", "lets nobody in"),
        ("format = 1\n[[token]]", "unknown key 'token': did you mean 'tokens'?"),
        ("format = 1\n" + TOKEN + "role = 1", "tokens[0]: unknown key 'role': did you mean 'roles'?"),
        ("format = 1\n" + TOKEN.replace('"rank"', '"rnak"'), "roles is ['rnak']; allowed: a list of some of rank,"),
        ("format = 1\n" + TOKEN.replace('["rank"]', "[]"), "roles is []; allowed"),
        ("format = 1\n" + TOKEN.replace('["rank"]', '"rank"'), "roles is 'rank'; allowed: a list"),
        ("format = 1\n" + TOKEN.replace("web", "a b"), "name is 'a b'; allowed"),
        ("format = 1\n" + TOKEN + TOKEN, "tokens[1]: name is 'web'; allowed: each name once"),
        ("format = 1\n" + TOKEN + TOKEN.replace("web", "b"), "tokens[1]: sha256; allowed: each token once"),
        ("format = 1\n" + TOKEN.replace("ab", "AB"), "sha256; allowed: 64 hexadecimal digits"),
        ("format = 1\n" + TOKEN.replace(HASH, "recsys_secret"), "sha256; allowed: 64 hexadecimal digits"),
        ("format = 1\n" + TOKEN.replace("Z", ""), "expires is datetime"),
        ("format = 1\n" + TOKEN.replace(LONG_AFTER, '"soon"'), "allowed: a moment like"),
        ("format = 1\n" + TOKEN.replace(LONG_AFTER, "4000000000"), "expires is 4000000000; allowed: a moment like"),
        ("format = 1\n" + TOKEN + "calls_per_s = 0", "calls_per_s is 0; allowed: a number above 0"),
        ("format = 1\n" + TOKEN + "calls_per_s = true", "calls_per_s is True; allowed: a number above 0"),
        ("format = 1\n" + TOKEN + "calls_per_s = nan", "calls_per_s is nan; allowed: a number above 0"),
        ("format = 1\n[quota]\ncall_per_s = 1\n" + TOKEN, "unknown key 'call_per_s': did you mean 'calls_per_s'?"),
        ("format = 1\n" + SPIFFE + SPIFFE, "each SPIFFE id once"),
        ("format = 1\n" + SPIFFE.replace("spiffe://", "https://"), "allowed: a SPIFFE id"),
        ("format = 1\n" + SPIFFE.replace("org/web", "org"), "allowed: a SPIFFE id"),
        ("format = 1\ntokens = 1", "tokens; allowed: a list of tables"),
        ("format = 1\ntokens = [1]", "tokens[0]: a number; allowed: a table"),
        ("format = ", "is no TOML"),
        ("format = 1\n" + jwt_entry().replace('"RS256", "ES256"', '"none"'), "algorithms is ['none']; allowed"),
        ("format = 1\n" + jwt_entry().replace('"RS256", "ES256"', '"HS256"'), "algorithms is ['HS256']; allowed"),
        ("format = 1\n" + jwt_entry().replace("issuer", "isuer"), "unknown key 'isuer': did you mean 'issuer'?"),
        ("format = 1\n" + jwt_entry().replace('["rank"]', '["rnk"]'), "jwt.roles: ranker is ['rnk']; allowed"),
        ("format = 1\n" + jwt_entry("none.json"), "cannot be read: No such file or directory"),
    ],
)
def test_what_is_not_understood_is_named(text: str, complaint: str, file: Path, issuer: Issuer) -> None:
    issuer.write_jwks(file.parent / "jwks.json")
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(file)
    assert complaint in str(caught.value), str(caught.value)
    assert HASH not in str(caught.value) and "recsys_secret" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"x" * (5 << 20)])
def test_bytes_that_are_no_access_file_are_an_error_of_ours(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    for path in (file, file.rename(file.with_suffix(".json"))):
        if path.exists():
            with pytest.raises(ConfigError):
                read_policy(path)


def test_a_file_that_is_not_there_is_an_error_of_ours(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_policy(file)
