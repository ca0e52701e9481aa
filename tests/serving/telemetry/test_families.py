"""Families of the metrics page, their buckets, and the documentation of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from support.metrics_page import page_text
from support.paths import DOCS

from recsys.serving.rpc.methods import METHODS
from recsys.serving.telemetry.families import (
    BOUNDS_US,
    CALL_OUTCOMES,
    RELEASE_FAMILIES,
    SCORE_BOUNDS,
    SCORE_BUCKETS,
    SHADOW_OUTCOMES,
    families,
    histograms,
    slot_families,
)
from recsys.serving.telemetry.in_service import InService, Use
from recsys.serving.telemetry.prometheus import metrics_server
from recsys.serving.telemetry.stage_timer import STAGES

MONITORING = DOCS / "operate" / "monitoring.md"


def labels_of(values: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in values) or "none"


def test_the_bounds_are_whole_microseconds_six_to_a_factor_of_ten() -> None:
    assert BOUNDS_US[:7] == (10, 15, 20, 30, 50, 70, 100) and BOUNDS_US[-1] == 10_000_000
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US)) and all(isinstance(bound, int) for bound in BOUNDS_US)


def test_the_bounds_of_scores_rise_and_have_a_bucket_each_and_one_more() -> None:
    assert list(SCORE_BOUNDS) == sorted(set(SCORE_BOUNDS)) and SCORE_BOUNDS[-1] == 1.0
    assert len(SCORE_BUCKETS) == len(SCORE_BOUNDS) + 1 == len(set(SCORE_BUCKETS))


def test_the_documentation_has_every_family_label_and_stage() -> None:
    text, methods = MONITORING.read_text(), tuple(METHODS.values())
    for family in (*families(methods), *histograms(methods), *slot_families(methods)):
        if family.name in ("stage_seconds", "release_scores"):
            assert f"`recsys_{family.name}`" in text
            continue
        row = re.search(rf"^\| `recsys_{family.name}(?:_total)?` \| (.*?) \|", text, re.MULTILINE)
        assert row is not None and row[1] == labels_of(family.labels), family.name
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


def test_every_family_of_the_page_has_a_help_a_documented_name_and_standard_units(file: Path) -> None:
    in_service = InService(file)
    in_service.set([Use(slot=0, release="r", model="m", version="v")])
    with metrics_server(file, host="127.0.0.1", port=0, in_service=in_service) as port:
        found = list(text_string_to_metric_families(page_text(f"http://127.0.0.1:{port}/metrics")))
    text = MONITORING.read_text()
    assert len(found) > 30
    for family in found:
        name = f"{family.name}_{'total' if family.type == 'counter' else 'info' if family.type == 'info' else ''}"
        shown = {family.name, name.rstrip("_"), f"{family.name}_info"}
        assert family.documentation.endswith("."), family.name
        assert any(f"`{each}`" in text for each in shown), family.name
        assert not re.search(r"_(us|ms|milliseconds|kb|mb|percent)(_|$)", family.name), family.name
