"""Several servers behind one DNS name: all get calls, new ones too, and one that goes fails none."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import Callers, Fleet, running_fleet, shares
from support.network import namespaces_missing, network
from support.tiny_bundle import write_tiny_bundle
from support.tiny_workers import until

AGE_S = 1
"""Age of connections: that is how long new servers may have to wait, and a look at the name."""


def settings(folder: Path, redis_url: str) -> dict[str, str]:
    """Settings of each server, on a bundle that is written to the folder."""
    write_tiny_bundle(folder / "bundle")
    return {
        "RECSYS_BUNDLE": str(folder / "bundle"),
        "REDIS_URL": redis_url,
        "RECSYS_STORE_TIMEOUT_MS": "5000",
        "RECSYS_MAX_CONNECTION_AGE_S": str(AGE_S),
    }


def grow_and_shrink(fleet: Fleet, *, of: int, to: int, least: float) -> None:
    """Start ``of`` servers, then ``to`` in all, until each new one gets ``least`` of the calls; stop the first."""
    fleet.start(*range(1, of + 1))
    with Callers(fleet.target) as callers:
        until(lambda: min(shares(fleet, callers).values()) > least)
        new = range(of + 1, to + 1)
        fleet.start(*new)
        until(lambda: min(shares(fleet, callers)[number] for number in new) >= least, limit_s=120)
        fleet.stop(1)
        made = callers.calls
        until(lambda: callers.calls > made + 100, limit_s=120)
    assert callers.failures == []


def test_a_server_that_is_added_gets_calls_and_one_that_goes_fails_none(redis_url: str, tmp_path: Path) -> None:
    with running_fleet(tmp_path, **settings(tmp_path, redis_url)) as fleet:
        grow_and_shrink(fleet, of=1, to=2, least=0.2)


@pytest.mark.prove
def test_two_servers_that_join_two_get_a_fifth_of_the_calls_each(redis_url: str, tmp_path: Path) -> None:
    if reason := namespaces_missing():
        pytest.skip(reason)
    with network(4) as hosts, running_fleet(tmp_path, hosts=hosts, **settings(tmp_path, redis_url)) as fleet:
        grow_and_shrink(fleet, of=2, to=4, least=0.2)
