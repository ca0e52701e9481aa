"""Calls that no handler had are counted; those that the door refused as calls that have come, too."""

from __future__ import annotations

from pathlib import Path

import grpc

from recsys.serving.rpc.early_ends import EarlyEnds
from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.totals import read_totals

RANK = "/recsys.v1.Ranker/Rank"


def test_a_call_that_the_door_refused_has_come_and_is_counted_as_refused(tmp_path: Path) -> None:
    file = create_counter_file(tmp_path / "counters", workers=1, methods=METHODS.values())
    ends = EarlyEnds(Telemetry(file))
    ends.record("no_time", RANK, grpc.StatusCode.RESOURCE_EXHAUSTED, "no time")
    assert ends.arrived == 1, "or the watchdog takes gRPC to hand over none"
    ends.record("late", RANK, grpc.StatusCode.DEADLINE_EXCEEDED, "the interceptors have counted this one")
    assert ends.arrived == 1
    counters = read_totals(file).counters
    assert counters["early_ends", "no_time"] == counters["early_ends", "late"] == 1
    assert counters["requests", "Rank", "RESOURCE_EXHAUSTED"] == counters["requests", "Rank", "DEADLINE_EXCEEDED"] == 1
    assert counters["refused", "Rank", "time_left"] == 1
