"""Setting that serving benchmarks share: the reference bundles, a filled Redis, users with histories, requests.

Redis and whatever calls the server are pinned to the last core, the server to the first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness.common import cores, pinned, say
from harness.reference import FEATURES, ITEMS, START_MS, STEP_MS, USERS, category_of, export_reference, random_events
from harness.serving_parts import Request, message, server

from recsys.arrays import Int64Array
from recsys.bundle import open_bundle
from recsys.client import Client
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.encode import EncodedRequest, encode_history
from recsys.features.history.records import Events
from recsys.serving.deadline import Deadline
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session

_FILL_USERS = 16
_STORED_ITEMS = 20_000


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Users who have as many events each."""

    length: int
    users: list[int]
    events: list[Events]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Folder of the bundles, Redis, candidates of a request and items of a measurement."""

    folder: Path
    redis_url: str
    candidates: int
    items: Int64Array

    def requests(self, histories: Histories, count: int, *, seed: int = 1) -> list[Request]:
        """So many requests of these users, each of distinct random items whose features are stored."""
        random = np.random.Generator(np.random.PCG64(seed))
        size = min(self.candidates, len(self.items))
        return [
            Request(histories.users[number % len(histories.users)], random.choice(self.items, size=size, replace=False))
            for number in range(count)
        ]


@contextlib.contextmanager
def redis_with_items(folder: Path, *, items: int, candidates: int) -> Iterator[Setting]:
    """A Redis on the last core that holds the features of the items that requests ask for."""
    random = np.random.Generator(np.random.PCG64(0))
    stored = np.sort(random.choice(items, size=min(_STORED_ITEMS, items), replace=False)).astype(np.int64)
    with pinned(cores()[-1]):
        redis = EmbeddedRedis(folder / "redis")
    with redis:
        _with_store(
            redis.url, lambda s: s.put_entities("item", stored, {"category": category_of(stored)}, timeout_s=60)
        )
        yield Setting(folder=folder, redis_url=redis.url, candidates=candidates, items=stored)


def fill(setting: Setting, *, length: int, users: int, first_user: int = 0, items: int = ITEMS) -> Histories:
    """Give users histories of so many events."""
    assert first_user + users <= USERS
    random = np.random.Generator(np.random.PCG64(length))
    wanted = list(range(first_user, first_user + users))
    events = [random_events(random, length, items=items) for _ in wanted]

    async def put(store: RedisFeatureStore) -> None:
        for start in range(0, users, _FILL_USERS):
            part = slice(start, start + _FILL_USERS)
            batches = list(zip(wanted[part], events[part], strict=True))
            await store.replace_many(batches, arrived_until_ms=START_MS + STEP_MS * length, timeout_s=120)

    _with_store(setting.redis_url, put)
    return Histories(length=length, users=wanted, events=events)


def bare_requests(bundle: Path, setting: Setting, histories: Histories, count: int) -> list[tuple[Any, Any]]:
    """Inputs that the server feeds the graphs for such requests: the state's sums, and the newest events."""
    session = open_ranking_session(open_bundle(bundle, verify="sizes"))
    by_user = dict(zip(histories.users, histories.events, strict=True))
    found = []
    for request in setting.requests(histories, count):
        of_user = user_inputs(session, request.user, by_user[request.user])
        items = {"item_id": request.candidates, "category": category_of(request.candidates)}
        found.append((of_user, items))
    return found


def user_inputs(session: RankingSession, user: int, events: Events) -> dict[str, Any]:
    """Inputs of the user graph, the older events in the state's sums if the model has one."""
    of_user: dict[str, Any] = {"user_id": np.array([user], dtype=np.int64)}
    if session.state is None:
        return of_user | encode_history(FEATURES, events)
    newest = events[-session.state.newest :]
    of_user |= encode_history(FEATURES, newest)
    of_user["state.sums"] = session.encode(encode_history(FEATURES, events))
    of_user["state.fresh"] = np.zeros(len(newest), dtype=np.float32)
    return of_user


def messages(requests: Sequence[Request]) -> list[bytes]:
    """Requests as they are sent."""
    return [message(request) for request in requests]


@contextlib.contextmanager
def pinned_server(setting: Setting, bundle: Path, *arguments: str) -> Iterator[tuple[int, str]]:
    """A server on the first core; process id and address."""
    with contextlib.ExitStack() as stack:
        with pinned(cores()[0]):  # the caller is not to stay there
            found = stack.enter_context(server(bundle, setting.redis_url, setting.folder, *arguments))
        yield found


def reference_bundle(folder: Path, *, items: int, long: str = "sdim", compute: str = "float32") -> Path:
    """A bundle of the reference model, made once."""
    path = folder / f"reference-{long}-{compute}"
    if not path.exists():
        say(f"exporting the reference model: {long}, {compute}, {items:,} items")
        export_reference(path, long=long, items=items, compute=compute)  # type: ignore[arg-type]
    return path


def _with_store(url: str, work: Any) -> None:
    async def run() -> None:
        store = RedisFeatureStore.connect(url, FEATURES)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


def check_answers(
    address: str, bundle: Path, requests: Sequence[Request], bare_inputs: Sequence[tuple[Any, Any]], *, events: int
) -> None:
    """AssertionError unless the server answers what the graphs say, from the whole history."""
    session = open_ranking_session(open_bundle(bundle, verify="sizes"))
    with Client(address, timeout_s=30.0) as client:
        for request, (of_user, items) in list(zip(requests, bare_inputs, strict=False))[:8]:
            answer = client.rank(user=request.user, candidates=request.candidates)
            assert not answer.degraded and answer.history_events == events, answer
            encoded = EncodedRequest(user=of_user, candidates=items, history_events=events)
            sums, fresh = of_user.pop("state.sums", None), of_user.pop("state.fresh", None)
            expected = session.score(encoded, deadline=Deadline.after(60.0), sums=sums, fresh=fresh).scores
            if sums is not None:
                of_user |= {"state.sums": sums, "state.fresh": fresh}
            # The state is kept in float16, and only a later answer is made of it.
            np.testing.assert_allclose(answer.scores, expected, atol=2e-3)
