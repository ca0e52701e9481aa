"""Models of a release say what their lists are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.tiny_retrieval import write_tiny_retrieval

from recsys.bundle import IndexInfo, open_bundle
from recsys.serving.process.models import open_models
from recsys.serving.process.releases.plan import PlannedRelease
from recsys.serving.settings import Settings

PROVEN = IndexInfo(coarse="int8", users=6, recall=1.0, effective_dimension=5.5, scanned_bytes_per_item=24)
MEASURED = IndexInfo(
    coarse="1bit",
    users=6,
    recall=0.9993,
    effective_dimension=5.5,
    scanned_bytes_per_item=12,
    reranked={"20": 34, "100": 169},
    recalls={"20": 0.9993, "100": 0.9991},
    least_recall=0.999,
)


@pytest.mark.parametrize("index", [PROVEN, MEASURED, None])
def test_an_index_whose_lists_are_not_proven_is_logged_when_it_is_loaded(
    index: IndexInfo | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_retrieval(tmp_path / "finder", index=index)
    assert open_bundle(tmp_path / "finder").manifest.index == index
    with caplog.at_level(logging.INFO, logger="recsys.serving"):
        open_models(PlannedRelease(name="first", ranking=None, retrieval=tmp_path / "finder"), Settings())
    said = (
        "retrieval model 'finder' finds items by codes of 1bit: its lists are not proven to be exact; measured at "
        "export on 6 users: 0.9993 of lists of 20, 0.9991 of lists of 100"
    )
    assert (said in caplog.text) == (index is MEASURED)


def test_a_proven_index_has_no_fields_of_measured_ones_in_its_manifest(tmp_path: Path) -> None:
    """Bundles of before keep their version."""
    write_tiny_retrieval(tmp_path / "finder", index=PROVEN)
    text = (tmp_path / "finder" / "manifest.json").read_text()
    assert "scanned_bytes_per_item" in text and "reranked" not in text and "least_recall" not in text
