"""A trained model is exported, served, and its scores are explained: by the client, and drawn by the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
from support.tiny_run import finished, folder_of_this_process
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import Client
from recsys.export.onnx import export_bundle
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.ingest.materialize import materialize
from recsys.serving.process.server import RunningServer, running_server
from recsys.serving.settings import Settings


@pytest.fixture(scope="module")
def server(redis_server: EmbeddedRedis) -> Iterator[RunningServer]:
    run, folder = finished(), folder_of_this_process() / "explained"
    export_bundle(run.result.trained, run.dataset, folder, name="din")

    async def fill() -> None:
        store = RedisFeatureStore.connect(redis_server.url, run.dataset.table.features)
        await materialize(store, run.dataset.table)
        await store.close()

    asyncio.run(fill())
    with running_server(Settings(bundle=folder, port=0, redis_url=redis_server.url)) as server:
        yield server


def test_the_scores_of_a_trained_model_are_explained_and_add_up(server: RunningServer) -> None:
    with Client(server.address, timeout_s=30) as client:
        weights = []
        for user in (1, 2, 77):
            ranked = client.rank(user=user, candidates=[3, 20, 41])
            for item, score in zip(ranked.items, ranked.scores.tolist(), strict=True):
                found = client.explain(user=user, item=item, timeout_s=60)
                total = found.base_logit + sum(part.contribution for part in found.contributions)
                assert total == pytest.approx(found.logit, abs=1e-9) and found.exact
                assert found.score == pytest.approx(score, abs=1e-5)
                assert found.history_events == ranked.history_events == 50
                assert found.events is not None and found.events.attention is not None
                weights.append((np.abs(found.events.attention), np.abs(found.events.leave_out)))
        strong, effect = (np.concatenate(columns) for columns in zip(*weights, strict=True))
        assert np.corrcoef(strong, effect)[0, 1] > 0.1, "what is read much matters more, as a rule"


def test_the_command_draws_a_score_that_a_server_gave(server: RunningServer) -> None:
    folder = folder_of_this_process()
    call = ["explain", "--user", "1", "--item", "20", "--address", server.address]
    drawn = CliRunner().invoke(app, [*call, "--plot", f"{folder}/why.png"], catch_exceptions=False).stdout
    lines = drawn.splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].startswith("user 1, item 20: score 0.")
    assert any(line.startswith("history: 50 events") for line in lines) and drawn.count("│") >= 15
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False).stdout.splitlines()[-1])
    total = found["base_logit"] + sum(part["contribution"] for part in found["contributions"])
    assert total == pytest.approx(found["logit"], abs=1e-9) and len(found["events"]) == 50
    assert f"score {found['score']:.4f}" in lines[0]
