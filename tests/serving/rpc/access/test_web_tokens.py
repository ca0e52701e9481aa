"""JWT: signatures, claims, keys, and what is remembered of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.access import Issuer, jwt_entry, write_access

from recsys.errors import ConfigError
from recsys.serving.rpc.access import web_tokens
from recsys.serving.rpc.access.identity import RefusedError
from recsys.serving.rpc.access.policy import read_policy
from recsys.serving.rpc.access.web_tokens import WebTokens, read_keys


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    made = Issuer()
    made.add_rsa("rsa")
    made.add_ec("ec")
    return made


@pytest.fixture
def checked(issuer: Issuer, tmp_path: Path) -> WebTokens:
    """Checks tokens of the issuer."""
    issuer.write_jwks(tmp_path / "jwks.json")
    found = read_policy(write_access(tmp_path / "access.toml", jwt_entry())).web_tokens
    assert found is not None
    return found


def reason(checked: WebTokens, token: str, **more: Any) -> str:
    """The reason for which a token is refused; its message must hold nothing of it."""
    with pytest.raises(RefusedError) as caught:
        checked.identity_of(token, **more)
    assert not any(len(part) > 8 and part in str(caught.value) for part in token.split("."))
    return caught.value.reason


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_a_good_token_gives_subject_and_roles_of_its_claim(checked: WebTokens, issuer: Issuer, key: str) -> None:
    found = checked.identity_of(issuer.token(key, groups=["editor", "ranker", "others", 7]))
    assert (found.name, found.roles) == ("jwt:web", {"rank", "read", "write"})
    assert checked.identity_of(issuer.token(key, groups="ranker more")).roles == {"rank"}
    assert checked.identity_of(issuer.token(key, groups=None)).roles == frozenset()
    assert checked.identity_of(issuer.token(key, groups={"ranker": 1})).roles == frozenset()


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "malformed"),
        ({"exp": "soon"}, "malformed"),
        ({"nbf": 4e9}, "not_yet_valid"),
        ({"iss": "https://other.example"}, "wrong_issuer"),
        ({"iss": None}, "wrong_issuer"),
        ({"aud": "another"}, "wrong_audience"),
        ({"aud": None}, "wrong_audience"),
        ({"sub": None}, "malformed"),
        ({"sub": "a\nb"}, "malformed"),
        ({"sub": "x" * 129}, "malformed"),
    ],
)
def test_a_bad_claim_is_refused_with_its_reason(
    checked: WebTokens, issuer: Issuer, claims: dict[str, Any], expected: str
) -> None:
    assert reason(checked, issuer.token("rsa", **claims)) == expected


def test_one_of_several_audiences_is_enough(checked: WebTokens, issuer: Issuer) -> None:
    assert checked.identity_of(issuer.token("ec", aud=["other", "recsys"])).name == "jwt:web"


def _unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = (json.dumps(part).encode() for part in (header, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_no_algorithm_but_those_of_the_file_is_taken(checked: WebTokens, issuer: Issuer) -> None:
    """RFC 8725, 2.1: none, and a public key taken for the secret of an HMAC."""
    claims = jwt.decode(issuer.token("rsa"), options={"verify_signature": False})
    for name in ("none", "None", "NONE"):
        assert reason(checked, _unsigned({"alg": name, "typ": "JWT", "kid": "rsa"}, claims) + ".") == "bad_signature"
    public = issuer.keys["rsa"].public_key()
    secrets = [public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)]
    secrets += [public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b""]
    secrets += [json.dumps(issuer.jwks()["keys"][0]).encode()]
    for secret in secrets:
        signed = _unsigned({"alg": "HS256", "typ": "JWT", "kid": "rsa"}, claims)
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        token = signed + "." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
        assert reason(checked, token) == "bad_signature"


def test_an_algorithm_that_the_file_does_not_list_is_refused_though_the_key_is_ours(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.write_jwks(tmp_path / "jwks.json")
    entry = jwt_entry(algorithms=("ES256",))
    checked = read_policy(write_access(tmp_path / "access.toml", entry)).web_tokens
    assert checked is not None and checked.keys == 1
    assert reason(checked, issuer.token("rsa")) == "bad_signature"
    assert checked.identity_of(issuer.token("ec")).name == "jwt:web"


def test_a_key_serves_its_own_kind_of_algorithm_alone(checked: WebTokens, issuer: Issuer) -> None:
    assert reason(checked, issuer.token("ec", headers={"kid": "rsa"})) == "bad_signature"
    assert reason(checked, issuer.token("rsa", headers={"kid": "ec"})) == "bad_signature"
    assert reason(checked, issuer.token("rsa", headers={"kid": "none"})) == "bad_signature"


def test_keys_in_the_header_are_not_looked_at(checked: WebTokens) -> None:
    """RFC 8725, 3.1: jwk and jku are the sender's."""
    other = Issuer()
    other.add_rsa("rsa")
    own = other.jwks()["keys"][0]
    assert reason(checked, other.token("rsa", headers={"jwk": own, "jku": "https://evil.example"})) == "bad_signature"
    assert reason(checked, other.token("rsa")) == "bad_signature"


@pytest.mark.parametrize(
    "token", ["..", "a.b.c", "e30.e30.", "eyJhbGciOiJSUzI1NiJ9..", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"]
)
def test_garbage_is_refused(checked: WebTokens, token: str) -> None:
    assert reason(checked, token) in ("malformed", "bad_signature")


def test_a_changed_character_is_refused(checked: WebTokens, issuer: Issuer) -> None:
    head, body, signature = issuer.token("rsa").split(".")
    other = "A" if signature[10] != "A" else "B"
    assert reason(checked, f"{head}.{body}.{signature[:10]}{other}{signature[11:]}") == "bad_signature"


@pytest.fixture
def decodes(checked: WebTokens, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The tokens whose signatures are checked."""
    seen: list[str] = []
    verify = WebTokens._verify

    def counting(self: WebTokens, token: str, now_s: float) -> Any:
        seen.append(token)
        return verify(self, token, now_s)

    monkeypatch.setattr(WebTokens, "_verify", counting)
    yield seen


def test_a_token_is_verified_once_until_it_expires(checked: WebTokens, issuer: Issuer, decodes: list[str]) -> None:
    ends_s = time.time() + 60
    token = issuer.token("rsa", exp=ends_s)
    for _ in range(3):
        checked.identity_of(token, now_s=ends_s - 1)
    assert len(decodes) == 1
    assert reason(checked, token, now_s=ends_s) == "expired"
    assert checked.cached == 0


def test_a_bad_token_is_not_remembered(checked: WebTokens, issuer: Issuer, decodes: list[str]) -> None:
    for _ in range(2):
        assert reason(checked, issuer.token("rsa", iss="other")) == "wrong_issuer"
    assert len(decodes) == 2 and checked.cached == 0


def test_so_many_tokens_are_remembered_the_last_used_ones(
    checked: WebTokens, issuer: Issuer, decodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_tokens, "MOST_CACHED", 3)
    tokens = [issuer.token("ec", sub=str(number)) for number in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        checked.identity_of(token)
    assert checked.cached == 3 and len(decodes) == 4
    checked.identity_of(tokens[0])
    assert len(decodes) == 4
    checked.identity_of(tokens[1])
    assert len(decodes) == 5, "the one that was used longest ago was forgotten"


def test_without_a_kid_the_only_key_that_fits_is_taken(issuer: Issuer, checked: WebTokens, tmp_path: Path) -> None:
    assert checked.identity_of(issuer.token("rsa", headers={"kid": None})).name == "jwt:web"
    issuer.add_rsa("second")
    try:
        issuer.write_jwks(tmp_path / "jwks.json")
        several = read_policy(tmp_path / "access.toml").web_tokens
        assert several is not None
        assert reason(several, issuer.token("rsa", headers={"kid": None})) == "bad_signature"
        assert several.identity_of(issuer.token("second")).name == "jwt:web"
    finally:
        del issuer.keys["second"]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}]}', "keys[0] is a secret"),
        ('{"keys": []}', "has no key for RS256"),
        ('{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB"}]}', "keys[0] cannot be read"),
        ('{"keys": [{"kty": "RSA", "kid": "a", "use": "enc"}]}', "has no key for RS256"),
        ('{"keys": {"a": 1}}', "is no JWKS"),
        ("[]", "is no JWKS"),
        ("{", "is no JWKS"),
    ],
)
def test_a_bad_file_of_keys_is_named(keys: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(keys)
    with pytest.raises(ConfigError) as caught:
        read_keys(path.read_bytes(), ("RS256",), path=path)
    assert complaint in str(caught.value) and "c2VjcmV0" not in str(caught.value)


def test_a_private_key_and_a_name_twice_are_refused(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    private = jwt.algorithms.RSAAlgorithm.to_jwk(issuer.keys["rsa"], as_dict=True)
    path.write_text(json.dumps({"keys": [private]}))
    with pytest.raises(ConfigError, match="is a secret"):
        read_keys(path.read_bytes(), ("RS256",), path=path)
    public = issuer.jwks()["keys"][0]
    path.write_text(json.dumps({"keys": [public, public]}))
    with pytest.raises(ConfigError, match="is another key's, too"):
        read_keys(path.read_bytes(), ("RS256",), path=path)


def test_a_key_of_an_issuer_that_is_too_weak_is_refused(tmp_path: Path) -> None:
    """RFC 7518, 3.3: RSA keys have 2,048 bits or more."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1_024).public_key()
    listed = {"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(weak, as_dict=True), "kid": "weak"}]}
    for algorithm in ("RS256", "PS512"):
        with pytest.raises(ConfigError, match=r"keys\[0\] is an RSA key of 1,024 bits; allowed: 2,048 to 16,384"):
            read_keys(json.dumps(listed).encode(), (algorithm,), path=tmp_path / "jwks.json")
