"""Redis URLs, and when the circuit breaker lets a call through."""

from __future__ import annotations

import pytest
from contracts.link_contract import check_servers

from recsys.errors import ConfigError, StoreUnavailableError
from recsys.feature_store.redis.link.breaker import Breaker
from recsys.feature_store.redis.link.cluster import ClusterLink
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.link.sentinel import SentinelLink
from recsys.feature_store.redis.link.server import RedisLink
from recsys.feature_store.redis.link.url import parse_redis_url
from recsys.masking import mask_url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "not the URL of a Redis"),
        ("localhost:6379", "not the URL of a Redis"),
        ("http://host", "not the URL of a Redis"),
        ("redis+sentinels://host/x", "not the URL of a Redis"),
        ("redis://:hunter2@host:port", "not understood"),
        ("redis://:hunter2@host/cache", "not understood"),
        ("unix://", "not understood"),
        ("redis://host?password=hunter2&no_such_option=1", "not understood"),
        ("redis://user:hun/ter2@host", "not understood"),
        ("redis+sentinel://:hunter2@a,b", "after the sentinels comes /SERVICE"),
        ("redis+sentinel://:hunter2@a,/cache", "a host is missing"),
        ("redis+sentinel://a:port/cache?sentinel_password=hunter2", "not understood"),
        ("redis+sentinel://a/cache?db=x&sentinel_password=hunter2", "not understood"),
        ("redis+cluster://:hunter2@a/1", "a cluster has no databases"),
        ("redis+cluster://:hunter2@a?db=0", "a cluster has no databases"),
        ("redis+cluster://:hunter2@a,b?no_such_option=1", "not understood"),
    ],
)
def test_a_bad_url_names_what_is_allowed_and_hides_the_password(url: str, problem: str) -> None:
    allowed = r"allowed: redis://.* rediss://.* unix:///.* redis\+sentinel://.* redis\+cluster://.*rediss\+"
    with pytest.raises(ConfigError, match=f"{problem}.*; {allowed}") as caught:
        open_link(url)
    assert "hunter2" not in str(caught.value) and "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://localhost", RedisLink),
        ("redis://:pw@cache:6380/2", RedisLink),
        ("rediss://u:p@cache", RedisLink),
        ("unix:///run/redis.sock?db=1", RedisLink),
        ("redis+sentinel://u:p@a,b:1/cache?db=1&sentinel_password=x", SentinelLink),
        ("rediss+cluster://u:p@a,[::1]:2?ssl_ca_certs=ca.pem", ClusterLink),
    ],
)
def test_the_url_says_which_kind_of_redis_it_is(url: str, kind: type) -> None:
    link = open_link(url)
    assert type(link) is kind and link.name == mask_url(url)


async def test_a_single_redis_is_its_own_server(redis_url: str) -> None:
    link = open_link(redis_url)
    assert await check_servers(link) == 1
    assert await link.servers(timeout_s=5) == [link]
    await link.close()


def test_sentinels_have_a_login_of_their_own_and_the_same_tls() -> None:
    query = "db=3&ssl_ca_certs=ca.pem&sentinel_username=watch&sentinel_password=p%2Fw"
    url = parse_redis_url(f"rediss+sentinel://app:s%40crt@a,[::1]:7/cache?{query}")
    assert (url.hosts, url.service) == ((("a", 26379), ("::1", 7)), "cache")
    assert url.server(("10.0.0.1", 6379)) == "rediss://app:s%40crt@10.0.0.1:6379?db=3&ssl_ca_certs=ca.pem"
    assert url.sentinel(url.hosts[1]) == "rediss://watch:p%2Fw@[::1]:7?ssl_ca_certs=ca.pem"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://user:pw@cache", "redis://***@cache"),
        ("redis://:p@ss/w?rd@cache", "redis://***"),
        ("unix:///s.sock?db=1&password=pw", "unix:///s.sock?db=1&password=***"),
    ],
)
def test_redacted_urls_keep_everything_but_secrets(url: str, shown: str) -> None:
    assert mask_url(url) == shown


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_after_a_failure_calls_are_refused_for_25_to_50_ms() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    breaker.check()
    breaker.failed("cache: refused")
    clock.now_s += 0.024
    with pytest.raises(StoreUnavailableError, match=r"cache: refused \(not tried again yet\)"):
        breaker.check()
    clock.now_s += 0.027
    breaker.check()


def test_only_one_caller_probes() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    breaker.failed("down")
    clock.now_s += 0.05
    breaker.check()
    with pytest.raises(StoreUnavailableError):
        breaker.check()


def test_the_wait_doubles_up_to_2_s_and_a_success_ends_it() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for failures in range(1, 40):
        breaker.failed("down")
        longest_s = min(2.0, 0.05 * 2 ** (failures - 1))
        clock.now_s += longest_s * 0.49
        with pytest.raises(StoreUnavailableError):
            breaker.check()
        clock.now_s += longest_s * 0.52
        breaker.check()
    breaker.succeeded()
    breaker.check()


def test_one_slow_answer_does_not_open_it_but_three_in_a_row_do() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(5):
        breaker.failed("slow", timed_out=True)
        breaker.failed("slow", timed_out=True)
        breaker.check()
        breaker.succeeded()
    for _ in range(3):
        breaker.failed("slow", timed_out=True)
    with pytest.raises(StoreUnavailableError):
        breaker.check()
