"""Items that a benchmark holds out of training."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT

from recsys.arrays import Int64Array


def test_no_item_that_a_user_had_is_in_the_list_held_out_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cold = importlib.import_module("retrieving.cold")
    data = cold.made_sequences()
    parts: dict[str, Any] = {}

    def had_first(_: Any, train: Any, whole: Any, __: Path) -> Any:
        """Items that a user had score most; then come eight of the training, a held-out one, and the item to find."""
        parts.update(train=train, whole=whole)
        scores_NM = torch.zeros(whole.num_users, whole.num_items)
        scores_NM[:, [*range(8), train.num_items]] = 1.5
        scores_NM[whole.test.user_E, whole.test.item_E] = 1.0
        scores_NM[whole.histories["test"].user_E, whole.histories["test"].item_E] = 2.0

        def score(users_B: Int64Array) -> torch.Tensor:
            return scores_NM[torch.from_numpy(users_B)]

        return score

    monkeypatch.setattr(cold, "_scores", had_first)
    found = cold.cold_items(None, data, tmp_path)
    whole, warm = parts["whole"], parts["train"].num_items
    had = set(zip(whole.histories["test"].user_E.tolist(), whole.histories["test"].item_E.tolist(), strict=True))
    assert any(item >= warm for _, item in had), "histories have held-out items"
    # At most nine are before the item that came next, so that ten places are just enough.
    assert found.all.recall == found.cold.recall == found.warm.recall == 1.0
    assert 0.0 < found.places < 1.0
