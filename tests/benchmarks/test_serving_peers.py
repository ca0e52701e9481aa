"""The comparison with other model servers: the graph they get is the model's, and what happens without them."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import ROOT

from recsys.embeddings.dense_twin import DenseTwin
from recsys.export.graphs.modules import STATE_FRESH, STATE_SUMS, RankGraph, UserGraph, build_frozen_net, stacked
from recsys.export.quantized import stored_tables

FOLDER = ROOT / "benchmarks"
ITEMS, EVENTS, CANDIDATES = 500, 7, 6


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmarks' folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("serving_peers")


def requests(module: ModuleType, trained: Any, *, repeated: bool) -> dict[str, np.ndarray]:
    size = module.Size(rounds=1, round_s=0.1, requests=2, items=ITEMS, events=EVENTS, candidates=CANDIDATES)
    inputs: dict[str, np.ndarray] = module.flat_requests(trained, size, repeated=repeated)
    return {name: array[1] for name, array in inputs.items()}


def split_scores(trained: Any, rows: dict[str, np.ndarray]) -> np.ndarray:
    """By the user's and the candidates' halves, as a bundle computes them. Row r holds id r - 1."""
    features, twin = (
        trained.features,
        DenseTwin(stored_tables(trained, "none"), trained.row_maps, trained.model.module.numbers).eval(),
    )
    net = build_frozen_net(trained)
    user, rank = (kind(features, net=net, twin=twin).eval() for kind in (UserGraph, RankGraph))
    keys = {name: torch.from_numpy(array.reshape(array.shape[-1]) - 1) for name, array in rows.items()}
    given = {**keys, STATE_FRESH: torch.ones(EVENTS)} | (
        {} if net.state is None else {STATE_SUMS: torch.zeros(net.state)}
    )
    with torch.no_grad():
        side = dict(zip(net.side_dimensions, user(*stacked(given, user.stacks)), strict=False))
        found: np.ndarray = rank(*stacked({**side, **keys}, rank.stacks))[1].numpy()
    return found


@pytest.mark.parametrize("long", ["sdim", "mean"])
def test_the_flat_graph_is_the_same_function_as_the_split_ones(module: ModuleType, long: str, tmp_path: Path) -> None:
    reference, flat = importlib.import_module("harness.reference"), importlib.import_module("harness.flat_graph")
    trained = reference.reference_model(long=long, items=ITEMS)
    expected = split_scores(trained, requests(module, trained, repeated=False))
    assert np.ptp(expected) > 1e-4, "candidates do not differ: nothing would be compared"
    for repeated in (False, True):
        graph = flat.export_flat(trained, tmp_path / f"{repeated}.onnx", repeated=repeated)
        given = requests(module, trained, repeated=repeated)
        assert given["user_id"].shape == ((CANDIDATES,) if repeated else (1,))
        assert given["history.item_id"].shape == (CANDIDATES if repeated else 1, EVENTS)
        (scores,) = module._session(graph).run(["scores"], given)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_missing_event_changes_nothing_in_the_flat_graph(module: ModuleType) -> None:
    reference, flat = importlib.import_module("harness.reference"), importlib.import_module("harness.flat_graph")
    trained = reference.reference_model(long="sdim", items=ITEMS)
    model = flat.FlatModel(trained, repeated=False).eval()
    given = {name: torch.from_numpy(array) for name, array in requests(module, trained, repeated=False).items()}
    padded = {n: torch.cat([torch.full((1, 3), -1), t], dim=1) if "history" in n else t for n, t in given.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(*padded.values()), model(*given.values()))


def test_without_its_python_a_server_is_skipped_with_a_message(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pythons = {f"{name}_python": None for name in module.PEERS} | {"kserve_python": Path(sys.executable)}
    assert module.pythons_of(argparse.Namespace(**pythons)) == {}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"kserve: skipped; {sys.executable} cannot import it"
    assert said[1:] == [f"{n}: skipped; name a Python that has it with --{n}-python" for n in list(module.PEERS)[1:]]


def test_a_server_that_does_not_start_is_an_error(module: ModuleType, tmp_path: Path) -> None:
    process = importlib.import_module("peers.process")
    script = tmp_path / "serving_none.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER / 'peers')!r}); from serving_process import offer\n"
        "def ask(message): raise OSError('refused')\n"
        "offer([sys.executable, '-c', 'raise SystemExit(3)'], port=1, wire='grpc', messages=[b''], ask=ask, version='')"
    )
    arguments = (tmp_path / "graph", tmp_path / "requests", tmp_path / "messages")
    with pytest.raises(RuntimeError, match=r"serving_none\.py has ended"):
        with process.peer(Path(sys.executable), str(script), *arguments):
            pass
