"""Families of the metrics page, their buckets, and the documentation of each."""

from __future__ import annotations

import re
from collections.abc import Mapping

from support.paths import DOCS

from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.families import BOUNDS_US, CALL_OUTCOMES, RELEASE_FAMILIES, SHADOW_OUTCOMES, families
from recsys.serving.telemetry.stage_timer import STAGES

MONITORING = DOCS / "monitoring.md"


def labels_of(values: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in values) or "none"


def test_the_bounds_are_whole_microseconds_six_to_a_factor_of_ten() -> None:
    assert BOUNDS_US[:7] == (10, 15, 20, 30, 50, 70, 100) and BOUNDS_US[-1] == 10_000_000
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US)) and all(isinstance(bound, int) for bound in BOUNDS_US)


def test_the_documentation_has_every_family_label_and_stage() -> None:
    text = MONITORING.read_text()
    for family in families(tuple(METHODS.values())):
        row = re.search(rf"^\| `recsys_{family.name}_total` \| (.*?) \|", text, re.MULTILINE)
        assert row is not None and row[1] == labels_of(family.labels)
        for values in family.labels.values():
            assert all(f"`{value}`" in text for value in values), family.name
    assert all(f"| `{stage}` |" in text for stage in STAGES)


def test_the_documentation_has_every_family_of_a_release_and_its_outcomes() -> None:
    text = MONITORING.read_text()
    for name in RELEASE_FAMILIES:
        row = re.search(rf"^\| `recsys_{name}(?:_total)?` \| (.*?) \| (.*)", text, re.MULTILINE)
        assert row is not None, name
        for outcome in {"release_calls": CALL_OUTCOMES, "release_shadow": SHADOW_OUTCOMES}.get(name, ()):
            assert "`outcome`" in row[1] and f"`{outcome}`" in row[2], (name, outcome)
