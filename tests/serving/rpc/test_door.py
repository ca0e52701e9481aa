"""Calls that could not be answered in their time are refused before their message is here, and only these."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import grpc
import pytest
from support.tiny_server import Start

from recsys.errors import OverloadedError
from recsys.proto.trailers import RETRY_TRAILER
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference import ranking_session
from recsys.serving.inference.pace import Work
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.rpc.door import ranker_door

RANK = "/recsys.v1.Ranker/Rank"
WORK = Work(0.1, 0.1)


def test_a_call_of_ranker_is_refused_that_has_too_little_time_for_one_like_those_that_are_in() -> None:
    admission = Admission(10)
    door = ranker_door(admission, default_s=1.0, clock=lambda: 5_000.0)
    assert door(RANK, 5_000.001) is None, "nobody is before it"
    with admission.enter(WORK), admission.enter(WORK):
        refused = door(RANK, 5_000.4)
        assert isinstance(refused, OverloadedError) and refused.retry_after_s is not None
        assert door(RANK, 5_000.5) is None
        assert door("/recsys.v1.FeatureStore/GetHistory", 5_000.1) is None
        assert door("/grpc.health.v1.Health/Check", 5_000.1) is None
        assert door("/recsys.v1.Ranker/Explain", 5_000.1) is None, "it has a place of its own"
        assert door("/recsys.v1.Ranker/RankBatch", 5_000.1) is not None
        assert door(RANK, float("inf")) is None, "it has the default's second"
        with contextlib.ExitStack() as more:
            for _ in range(5):
                more.enter_context(admission.enter(WORK))
            assert door(RANK, float("inf")) is not None
    assert door(RANK, 5_000.1) is None


async def test_a_call_is_refused_whose_message_never_comes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_session, "_UNIT_S", 1.0 / ranking_session._REQUEST_UNITS)
    opened, running = threading.Event(), threading.Event()
    user_side = RankingSession._user_side

    def held(session: RankingSession, *arguments: object) -> object:
        running.set()
        assert opened.wait(20)
        return user_side(session, *arguments)  # type: ignore[arg-type]

    async with start() as client:
        monkeypatch.setattr(RankingSession, "_user_side", held)
        first = asyncio.create_task(client.rank(user=1, candidates=[1, 2]))
        await asyncio.to_thread(running.wait, 20)
        async with grpc.aio.insecure_channel(client._connection._target) as channel:
            silent = channel.stream_unary(RANK)(timeout=0.5)  # opened, and nothing is sent
            assert await silent.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "1 requests are being served, which takes" in await silent.details()
            trailers = {key: value for key, value in await silent.trailing_metadata()}
            assert int(trailers[RETRY_TRAILER]) >= 500
        opened.set()
        assert len((await first).scores) == 2


def test_calls_on_their_way_in_count_until_they_ask_for_a_place_or_do_not_come() -> None:
    admission, now_s, set_by_s = Admission(10), 5_000.0, 0.0
    door = ranker_door(admission, default_s=1.0, clock=lambda: now_s + set_by_s, steady=lambda: now_s)

    def let_in() -> bool:
        return door(RANK, now_s + set_by_s + 0.35) is None

    with admission.enter(WORK):
        assert let_in(), "one is in, and it"
        assert not let_in(), "another one is on its way"
        with admission.enter(Work(0.0, 0.0)):
            pass
        assert let_in(), "that one has come, and gone"
        now_s += 0.1
        assert let_in(), "that one never came"
        set_by_s = -3_600.0
        assert not let_in()
        now_s += 0.1
        assert let_in(), "the clock was set back meanwhile"
