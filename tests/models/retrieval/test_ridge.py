"""The regression is the solution of its equations, and says where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recsys.models.retrieval import ridge as module
from recsys.models.retrieval.ridge import ridge

RANDOM = np.random.default_rng(0)
DESIGN_AP = (RANDOM.random((60, 12)) < 0.3) * RANDOM.normal(size=(60, 12))
TARGETS_AR = RANDOM.normal(size=(60, 5)) + 3


@pytest.mark.parametrize("weight", [0.3, 30.0])
@pytest.mark.parametrize("base", [True, False])
def test_coefficients_are_those_of_the_normal_equations(weight: float, base: bool) -> None:
    columns = np.column_stack([DESIGN_AP, np.ones(60)]) if base else DESIGN_AP
    penalty = np.diag([weight] * 12 + [0.0] * base)
    expected = np.linalg.solve(columns.T @ columns + penalty, columns.T @ TARGETS_AR)
    notes: list[str] = []
    found_PR, base_R = ridge(
        csr_matrix(DESIGN_AP.astype(np.float32)), TARGETS_AR.astype(np.float32), weight, base=base, notes=notes
    )
    np.testing.assert_allclose(found_PR, expected[:12], atol=1e-3)
    np.testing.assert_allclose(base_R, expected[12] if base else np.zeros(5), atol=1e-3)
    assert notes == []


def test_steps_that_do_not_suffice_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STEPS", 2)
    ridge(csr_matrix(DESIGN_AP.astype(np.float32)), TARGETS_AR.astype(np.float32), 0.3, notes=(notes := []))
    assert notes == ["a regression ended after 2 steps with 5 of 5 columns not solved"]
