"""Redis URLs, and when the circuit breaker lets a call through."""

from __future__ import annotations

import pytest

from recsys.errors import ConfigError, StoreUnavailableError
from recsys.feature_store.link import Breaker, RedisLink, redact


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://host",
        "redis://:hunter2@host:port",
        "unix://",
        "redis://host?password=hunter2&no_such_option=1",
        "redis://user:hun/ter2@host",
    ],
)
def test_a_bad_url_names_what_is_allowed_and_hides_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: redis://.* rediss://.* unix:///") as caught:
        RedisLink(url)
    assert "hunter2" not in str(caught.value) and "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost", "redis://:pw@cache:6380/2", "rediss://u:p@cache", "unix:///run/redis.sock?db=1"],
)
def test_redis_tls_and_socket_urls_are_taken(url: str) -> None:
    assert RedisLink(url).name == redact(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://user:pw@cache", "redis://***@cache"),
        ("redis://:p@ss/w?rd@cache", "redis://***@cache"),
        ("unix:///s.sock?db=1&password=pw", "unix:///s.sock?db=1&password=***"),
    ],
)
def test_redacted_urls_keep_everything_but_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


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
