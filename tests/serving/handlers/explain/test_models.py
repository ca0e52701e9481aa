"""Explanations of every sort of model, on a real server: they add up, and leaving out is what Rank does without."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from support.exported_models import MODELS, exported
from support.tiny_server import Start

from recsys.arrays import Float32Array
from recsys.bundle import Bundle, open_bundle
from recsys.client import AsyncClient, Explanation
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.encode import encode_request
from recsys.features.entities import make_columns
from recsys.features.history.records import Events, make_events
from recsys.models.ranking.attention import ActivationUnit
from recsys.models.ranking.sdim import Sdim
from recsys.serving.deadline import Deadline
from recsys.serving.inference.ranking_session import open_ranking_session

USER, ITEM = 3, 7
ITEMS = [7, 1 << 40, (1 << 62) - 2, 3]
"""Of the odd data set: the events are of these."""

USERS: dict[str, Any] = {"type": 2, "size": 0.7, "keys": [1, 2], "age": 0.4}
ITEM_ROW: dict[str, Any] = {"type": [1, 2], "size": 3.0}
CONTEXT: dict[str, Any] = {"present": 0.3}


def past(bundle: Bundle, start_ms: int) -> Events:
    """Four events, as many as the models read."""
    history = bundle.features.history
    assert history is not None
    times = [start_ms + n for n in range(len(ITEMS))]
    attributes = {a.name: [1, 3, 2, 1] for a in history.attributes}
    return make_events(bundle.features, item=ITEMS, timestamp_ms=times, arrival_ms=times, attributes=attributes)


async def fill(store: RedisFeatureStore, bundle: Bundle, events: Events | None) -> None:
    features = bundle.features
    for entity, key, values in (("user", USER, USERS), ("item", ITEM, ITEM_ROW)):
        declared = features.entity(entity).features
        if declared:
            row = {f.name: [values[f.name]] for f in declared}
            columns = make_columns(declared, row, length=1)
            await store.put_entities(entity, np.array([key]), columns, timeout_s=5)
    if events is not None:
        await store.replace_many([(USER, events)], arrived_until_ms=time.time_ns() // 1_000_000, timeout_s=5)


async def check_without(client: AsyncClient, found: Explanation, leave_out: float, what: object, **given: Any) -> None:
    """Of the store as it is now, Rank gives the score that an explanation says would be left, and Explain its logit."""
    left = found.logit - leave_out
    score = float((await client.rank(user=USER, candidates=[ITEM], **given)).scores[0])
    assert score == pytest.approx(1 / (1 + np.exp(-left)), abs=1e-5), what
    again = await client.explain(user=USER, item=ITEM, max_events=1, **given)
    assert again.logit == pytest.approx(left, abs=1e-4), what


def check_sum(found: Explanation) -> None:
    assert found.base_logit + sum(p.contribution for p in found.contributions) == pytest.approx(found.logit, abs=1e-9)


LONGER = {"autoint, no history", "dcn, parallel", "sdim, none", "sdim, din", "sdim, eta", "din, softmax, dice"}
"""Models whose parts the others have, too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.prove] if name in LONGER else []) for name in MODELS]
)
async def test_it_adds_up_and_leaving_out_is_what_rank_gives_without(name: str, start: Start, redis_url: str) -> None:
    bundle = open_bundle(exported(name)[2])
    features = bundle.features
    store = RedisFeatureStore.connect(redis_url, features)
    events = None if features.history is None else past(bundle, time.time_ns() // 1_000_000 - 1_000)
    await fill(store, bundle, events)
    context = {f.name: CONTEXT[f.name] for f in features.context}
    async with start(bundle=bundle.path) as client:
        found = await client.explain(user=USER, item=ITEM, features=context)
        check_sum(found)
        assert found.exact and not found.degraded
        await check_without(client, found, 0.0, "nothing", features=context)
        parts = {(part.side, part.name): part.leave_out for part in found.contributions}
        # Every part that can be left out by a request, or by another store.
        for feature in (*features.user, *features.context):
            side = "user" if feature in features.user else "context"
            given = {**context, feature.name: None}
            await check_without(client, found, parts[side, feature.name], feature.name, features=given)
        if events is not None:
            assert found.events is not None
            for place, leave_out in enumerate(found.events.leave_out.tolist()):
                await fill(store, bundle, np.delete(events, place))
                await check_without(client, found, leave_out, place, features=context)
            await fill(store, bundle, events[:0])
            await check_without(client, found, parts["history", "history"], "history", features=context)
        assert max(abs(part.contribution) for part in found.contributions) > 1e-3
    await store.close()


@pytest.mark.parametrize(
    "name", ["din", "din, softmax, dice", "din, items of an id only", "sdim, sdim", "sdim, none", "sdim, mean, softmax"]
)
async def test_attention_is_that_of_the_trained_layers(name: str, start: Start, redis_url: str) -> None:
    trained, _, folder, _ = exported(name)
    bundle = open_bundle(folder)
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    events = past(bundle, time.time_ns() // 1_000_000 - 1_000)
    await fill(store, bundle, events)
    await store.close()
    async with start(bundle=bundle.path) as client:
        found = await client.explain(user=USER, item=ITEM, max_events=3)
    assert found.events is not None and found.events.attention is not None
    net = trained.model.module.net
    unit = net.short if isinstance(net, Sdim) else net.attention
    assert isinstance(unit, ActivationUnit)
    expected = attention_by_torch(bundle, unit, events)[-3:]
    expected = np.concatenate([np.zeros(3 - len(expected)), expected])
    np.testing.assert_allclose(found.events.attention, expected, atol=1e-5)
    assert np.ptp(found.events.attention) > 1e-4


def attention_by_torch(bundle: Bundle, unit: ActivationUnit, events: Events) -> Float32Array:
    """Weights of events by the trained unit: what it makes of events of which each is a direction of its own."""
    session = open_ranking_session(bundle)
    begin = "side.short_" if "side.short_weight" in bundle.manifest.graphs["user"].outputs else "side.attention_"

    def side(of: Events, item: int | None = None) -> dict[str, torch.Tensor]:
        encoded = encode_request(
            bundle.features,
            user_key=USER,
            user_columns={},
            request_values={},
            events=of,
            item_keys=np.array([ITEM]),
            item_columns={},
        )
        if item is not None:
            missing = {n: np.full(1, -1) for n in encoded.user if n.startswith("history.")}
            own = {**missing, f"history.{bundle.features.item_id.name}": np.array([item])}
            encoded.user.update(own)
        given = session.user_side(encoded, deadline=Deadline.after(30))
        return {n.removeprefix(begin): torch.from_numpy(t) for n, t in given.items() if n.startswith(begin)}

    of_events = side(events)
    query = side(events[:1], item=ITEM)["keys"][-1:]
    each_alone = torch.eye(len(of_events["bias"]))
    tensors = [of_events["weight"], of_events["bias"], each_alone]
    tensors += [of_events["mask"]] if "mask" in of_events else []
    with torch.no_grad():
        weights: Float32Array = unit.attend(query, tensors)[0].numpy()
    return weights


async def test_an_item_shares_signatures_with_the_events_in_its_buckets(start: Start, redis_url: str) -> None:
    trained, _, folder, _ = exported("sdim, sdim")
    bundle, net = open_bundle(folder), trained.model.module.net
    assert isinstance(net, Sdim) and net.long is not None
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    events = past(bundle, time.time_ns() // 1_000_000 - 1_000)
    await fill(store, bundle, events)
    await store.close()
    async with start(bundle=bundle.path) as client:
        found = await client.explain(user=USER, item=ITEM)
    session = open_ranking_session(bundle)

    def vector(item: int) -> torch.Tensor:
        rows = session.encode({f"history.{bundle.features.item_id.name}": np.array([item])})
        return torch.from_numpy(rows[np.abs(rows).max(axis=1) > 0][:1])

    signatures = net.long.signatures
    own = signatures.buckets_of(vector(ITEM))
    expected = [int((signatures.buckets_of(vector(item)) == own).sum()) for item in ITEMS]
    assert found.signatures == signatures.signatures
    assert found.events is not None and found.events.shared_signatures is not None
    assert found.events.shared_signatures.tolist() == expected
    assert expected[0] == found.signatures, "the first event is of the item itself"
