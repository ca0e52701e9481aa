"""A Redis Cluster and rankers on hosts of their own, of which one is cut off: what callers get, and that it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cut_hosts import Watch, cut_hosts
from support.network import namespaces_missing

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]


def test_what_a_cut_host_takes_from_answers_comes_back_by_itself(tmp_path: Path) -> None:
    if reason := namespaces_missing():
        pytest.skip(reason)
    with cut_hosts(tmp_path, RECSYS_STORE_TIMEOUT_MS="200") as hosts, Watch(hosts.fleet.target) as watch:
        primary = hosts.cut_primary(watch)
        assert primary.calls > primary.degraded > 0, "others' users were not answered whole, or nobody missed anything"
        assert set(primary.lacked) <= {"user", "items"}
        assert primary.failed == 0, primary.failures
        ranker = hosts.cut_ranker(watch)
        assert 0 < ranker.failed < ranker.calls
        assert ranker.failures == ("DeadlineExceeded",)
