"""Whatever is secret in a URL, or may be, is hidden; what is left says which server is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.masking import has_secret, mask_url

CANARY = "s3cr3t-c4n4ry"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://cache", "redis://cache"),
        ("rediss://app:{}@cache:6380/0", "rediss://***@cache:6380/0"),
        ("redis://:{}@cache", "redis://***@cache"),
        ("redis://{}@cache", "redis://***@cache"),
        ("unix:///run/redis.sock?db=1&password={}", "unix:///run/redis.sock?db=1&password=***"),
        ("redis://cache?PASSWORD={}", "redis://cache?PASSWORD=***"),
        ("redis://cache?pwd={}&db=2", "redis://cache?pwd=***&db=2"),
        ("redis://cache?auth={}", "redis://cache?auth=***"),
        ("redis://cache?{}", "redis://cache?***"),
        ("redis://cache?username={}", "redis://cache?username=***"),
        ("redis://cache?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem", None),
        (
            "redis+sentinel://u:{}@a,b:1/cache?sentinel_password={}",
            "redis+sentinel://***@a,b:1/cache?sentinel_password=***",
        ),
        ("rediss+cluster://u:{}@a,[::1]:2", "rediss+cluster://***@a,[::1]:2"),
        ("redsi://:{}@cache", "redsi://***@cache"),
        ("http://user:{}@cache", "http://***@cache"),
    ],
)
def test_a_url_keeps_what_is_not_secret(url: str, shown: str | None) -> None:
    given_url = url.replace("{}", CANARY)
    assert mask_url(given_url) == (given_url if shown is None else shown)
    assert has_secret(given_url) == ("{}" in url)


@pytest.mark.parametrize(
    "url",
    [
        "{}",
        "redis:/app:{}@cache",
        "redis//:{}@cache",
        "redis:{}@cache",
        ":{}@cache",
        "//:{}@cache",
        "localhost:{}",
        "redis://:{}",
        "redis://cache:{}",
        "redis://:{}?rest@cache",
        "redis://:{}#rest@cache",
        "redis://:a@{}?b@cache",
        "redis://cache?password=a@{}",
        "redis://cache:1 {}",
        "redis://cache\n{}",
        "redis://cache?db={}%&x",
        "redis://cache?db=1;password={}",
        "redis://cache#{}",
        " redis://:{}@cache",
    ],
)
def test_what_cannot_be_taken_apart_without_doubt_is_hidden(url: str) -> None:
    assert CANARY not in mask_url(url.replace("{}", CANARY))


@given(st.text(max_size=40), st.text(max_size=10), st.sampled_from(["redis://", "rediss+sentinel://", "unix://"]))
def test_no_user_and_no_password_is_ever_shown(before: str, after: str, scheme: str) -> None:
    """Of any password, quoted or not; it may hold what separates the parts of a URL."""
    shown = mask_url(f"{scheme}user:{before}{CANARY}{after}@cache:6379/0")
    assert CANARY not in shown
