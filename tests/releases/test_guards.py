"""Guards of a promotion: each refusal, and what is no reason to refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.graded_bundles import CERTIFIED, measured, record_release, without_details, write_release
from support.tiny_bundle import BY_HAND, FEATURES
from support.tiny_retrieval import write_tiny_retrieval

from recsys.bundle import Compute, Measured, SegmentMetrics
from recsys.bundle.manifest import digest_of
from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.releases.comparison import Bounds, Margin, parse_bounds
from recsys.releases.guards import inspect, refusals
from recsys.releases.release import RANKING, RETRIEVAL, ReleaseFolder


@cache
def good() -> Measured:
    return measured(signal=1.5)


@cache
def bad_for_new_users() -> Measured:
    """As good for all but the fifth of the users who are not in training."""
    return measured(signal=1.5, of_new_users=1.2)


@pytest.fixture
def running(tmp_path: Path) -> ReleaseFolder:
    return write_release(tmp_path, "running", good())


def test_an_equal_release_is_not_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    assert refusals(write_release(tmp_path, "new", good()), running) == []


def test_a_better_release_is_not_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    found = inspect(write_release(tmp_path, "new", measured(signal=2.5)), running, Bounds())
    assert found.refusals == ()
    assert {row.verdict for row in found.rows if row.metric in ("auc", "gauc")} == {"better"}


def test_a_release_worse_by_the_margin_is_refused_with_both_values(tmp_path: Path, running: ReleaseFolder) -> None:
    worse = measured(signal=1.3)
    reasons = refusals(write_release(tmp_path, "new", worse), running)
    of_auc = next(reason for reason in reasons if reason.startswith("ranking: auc:"))
    assert f"{worse.metrics['auc']:.4f} is" in of_auc and f"release's {good().metrics['auc']:.4f}" in of_auc


def test_a_release_worse_by_less_than_the_margin_is_not_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    worse = write_release(tmp_path, "new", measured(signal=1.49))
    found = inspect(worse, running, Bounds())
    assert found.refusals == ()
    assert next(row.verdict for row in found.rows if (row.segment, row.metric) == ("", "auc")) == "within"
    assert refusals(worse, running, Bounds(margin=Margin(value=0.0, relative=True)))


def test_lower_is_better_where_it_is(tmp_path: Path, running: ReleaseFolder) -> None:
    calm = replace(good(), metrics={**good().metrics, "log_loss": (good().metrics["log_loss"] or 0) * 0.5})
    assert refusals(write_release(tmp_path, "calm", calm), running) == []
    loud = replace(good(), metrics={**good().metrics, "log_loss": (good().metrics["log_loss"] or 0) * 1.5})
    reasons = refusals(write_release(tmp_path, "loud", loud), running)
    assert [reason.split(":")[1].strip() for reason in reasons] == ["log_loss"]


def test_counts_are_no_metrics(tmp_path: Path, running: ReleaseFolder) -> None:
    fewer = replace(good(), metrics={**good().metrics, "positives": 1, "lists": 0, "samples": 3000})
    assert refusals(write_release(tmp_path, "new", fewer), running) == []


def test_a_release_worse_in_one_segment_only_is_refused_naming_the_segment(
    tmp_path: Path, running: ReleaseFolder
) -> None:
    new = write_release(tmp_path, "new", bad_for_new_users())
    # A margin that the whole split keeps: a fifth of the samples lose an eighth of their signal.
    bounds = parse_bounds(["3%"], smallest_segment=100, standard_errors=3.0)
    found = inspect(new, running, bounds)
    assert found.refusals
    assert all("of segment 'user new'" in reason for reason in found.refusals), found.refusals
    assert {row.segment for row in found.rows if row.refuses} == {"user new"}


def test_noise_of_a_segment_is_no_refusal(tmp_path: Path, running: ReleaseFolder) -> None:
    """Other noise of the same strength: equal models, whose figures of 600 samples differ by chance."""
    signal = measured(signal=1.5)
    assert signal.evaluation is not None
    segment = signal.evaluation.segments["user new"]
    error = segment.standard_errors["auc"]
    unlucky = (segment.metrics["auc"] or 0) - 2 * error  # two independent standard errors: 1.4 of the difference
    other = {**signal.evaluation.segments, "user new": replace(segment, metrics={**segment.metrics, "auc": unlucky})}
    # Without resamples the standard error is that of two independent figures.
    candidate = replace(signal, evaluation=replace(signal.evaluation, segments=other), resamples={})
    found = inspect(write_release(tmp_path, "new", candidate), running, Bounds())
    assert found.refusals == ()
    row = next(row for row in found.rows if (row.segment, row.metric) == ("user new", "auc"))
    assert row.verdict == "noise"
    assert row.worse_by == pytest.approx(2 * error)
    assert row.standard_error == pytest.approx(np.sqrt(2) * error)
    assert refusals(write_release(tmp_path, "strict", candidate), running, replace(Bounds(), standard_errors=1.0)), (
        "fewer standard errors allow less"
    )


def test_the_standard_error_of_a_difference_is_of_the_same_draws_of_users(
    tmp_path: Path, running: ReleaseFolder
) -> None:
    """Two models that differ by little on the same samples: their difference is surer than either figure."""
    found = inspect(write_release(tmp_path, "new", measured(signal=1.45)), running, Bounds())
    row = next(row for row in found.rows if (row.segment, row.metric) == ("user new", "auc"))
    assert good().evaluation is not None and row.standard_error is not None
    alone = good().evaluation.segments["user new"].standard_errors["auc"]  # type: ignore[union-attr]
    assert row.standard_error < 0.2 * alone


def test_a_segment_of_few_samples_decides_nothing(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", bad_for_new_users())
    bounds = parse_bounds(["3%"], smallest_segment=601, standard_errors=3.0)
    found = inspect(new, running, bounds)
    assert found.refusals == ()
    assert {row.verdict for row in found.rows if row.segment == "user new"} == {"small"}


def test_metrics_of_other_test_data_are_refused_and_say_how_to_go_on(tmp_path: Path, running: ReleaseFolder) -> None:
    (reason,) = refusals(write_release(tmp_path, "new", measured(seed=1)), running)
    assert "other test data" in reason and "--measure --data SOURCE" in reason and "--anyway" in reason


def test_a_release_without_metrics_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    (reason,) = refusals(write_release(tmp_path, "new"), running)
    assert "the release has no metrics" in reason and "--anyway" in reason


def test_a_running_release_without_metrics_is_a_refusal(tmp_path: Path) -> None:
    running = write_release(tmp_path, "running")
    (reason,) = refusals(write_release(tmp_path, "new", good()), running)
    assert "the running release has no metrics" in reason


def test_metrics_that_do_not_say_of_which_samples_they_are_are_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    (reason,) = refusals(write_release(tmp_path, "new", without_details(good())), running)
    assert "does not say which test data" in reason and "export it again" in reason


def test_a_metric_that_only_the_running_release_has_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    lacking = replace(good(), metrics={**good().metrics, "gauc": None})
    (reason,) = refusals(write_release(tmp_path, "new", lacking), running)
    assert reason.startswith("ranking: gauc: this release has none")


def test_a_metric_of_unknown_direction_is_refused(tmp_path: Path) -> None:
    odd = replace(good(), metrics={**good().metrics, "surprise": 0.5})
    running = write_release(tmp_path, "running", odd)
    (reason,) = refusals(write_release(tmp_path, "new", odd), running)
    assert reason.startswith("ranking: surprise:") and "upgrade" in reason


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    """A manifest cannot hold NaN; what is measured now can be it."""
    broken = replace(good(), metrics={**good().metrics, "gauc": float("nan")})
    found = inspect(write_release(tmp_path, "new", good()), running, Bounds(), measured={RANKING: (broken, good())})
    (reason,) = found.refusals
    assert reason.startswith("ranking: gauc: this release has nan")


def test_a_manifest_with_nan_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good())
    file = new.path / RANKING / "manifest.json"
    values = json.loads(file.read_text())
    values["metrics"]["auc"] = float("nan")
    file.write_text(json.dumps(values))
    (reason,) = refusals(new, running)
    assert "found NaN" in reason and "push its bundles again" in reason


def test_a_segment_of_other_samples_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    """Trained on less: more users are new to it, so that its segment of new users is another."""
    assert good().evaluation is not None
    segments = dict(good().evaluation.segments)  # type: ignore[union-attr]
    segments["user new"] = replace(segments["user new"], data="0" * 16, samples=900)
    evaluation = replace(good().evaluation, segments=segments)  # type: ignore[type-var]
    (reason,) = refusals(write_release(tmp_path, "new", replace(good(), evaluation=evaluation)), running)
    assert "segment 'user new'" in reason and "900" in reason and "600" in reason and "--measure" in reason


def test_a_segment_that_only_one_release_has_is_refused_unless_it_is_small(
    tmp_path: Path, running: ReleaseFolder
) -> None:
    assert good().evaluation is not None
    few = SegmentMetrics(samples=30, data="1" * 16, metrics={"auc": 0.1})
    for name, part, refused in (("few", few, False), ("many", replace(few, samples=300), True)):
        evaluation = replace(good().evaluation, segments={**good().evaluation.segments, "item new": part})  # type: ignore[union-attr, type-var]
        other = write_release(tmp_path, name, replace(good(), evaluation=evaluation))
        for found in (refusals(other, running), refusals(running, other)):
            assert bool(found) == refused, found


def test_a_release_without_a_certificate_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good(), certificate=BY_HAND)
    for live in (running, None):
        (reason,) = refusals(new, live)
        assert "no parity certificate" in reason and "recsys export" in reason


def test_a_certificate_above_its_tolerance_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good(), certificate=replace(CERTIFIED, max_abs_logit_difference=2e-4))
    for live in (running, None):
        (reason,) = refusals(new, live)
        assert "2.0e-04" in reason and "1.0e-04" in reason


@pytest.mark.parametrize(
    ("of_int8", "says"),
    [
        ({"mean_abs_logit_difference": 0.2}, "int8 products change logits by 2.0e-01"),
        ({"metrics": {"auc": 0.7}}, "int8 products make auc 0.7000, 0.1000 worse than float32's 0.8000"),
        ({"own_operators": {"metrics": {"log_loss": 0.6}}}, "own operators make log_loss 0.6000, 0.1000 worse"),
        ({"metrics": {"auc": 0.799, "log_loss": 0.501, "calibration_error": 0.019}}, ""),
    ],
    ids=["their tolerance", "the margin", "the margin in own operators", "nothing"],
)
def test_int8_products_that_change_more_than_is_allowed_are_refused(
    tmp_path: Path, of_int8: dict[str, Any], says: str
) -> None:
    exact = {"auc": 0.8, "log_loss": 0.5, "calibration_error": 0.01}
    within = Compute(
        kind="int8",
        requests=1,
        candidates=1,
        max_abs_logit_difference=1,
        mean_abs_logit_difference=0.05,
        tolerance=0.1,
        metrics=exact,
        float32_metrics=exact,
    )
    compute = replace(within, **of_int8)
    new = write_release(tmp_path, "new", good())
    file = new.path / RANKING / "manifest.json"
    values = json.loads(file.read_text())
    values["compute"] = vars(compute)
    values["manifest_sha256"] = digest_of(values)
    file.write_text(json.dumps(values))
    record = replace(new.release.ranking, version=values["manifest_sha256"][:16])  # type: ignore[type-var]
    reasons = refusals(replace(new, release=replace(new.release, ranking=record)), None)
    assert len(reasons) == bool(says) and all(says in reason for reason in reasons), reasons


def test_the_first_promotion_asks_for_no_metrics(tmp_path: Path) -> None:
    assert refusals(write_release(tmp_path, "new"), None) == []


def test_an_altered_byte_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good())
    table = new.path / RANKING / "tables" / "items.bin"
    content = bytearray(table.read_bytes())
    content[3] ^= 1
    table.write_bytes(content)
    for live in (running, None):
        (reason,) = refusals(new, live)
        assert "tables/items.bin: was altered" in reason


def test_another_bundle_than_the_record_says_is_refused(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good())
    record = replace(new.release.ranking, version="0" * 16)  # type: ignore[type-var]
    (reason,) = refusals(replace(new, release=replace(new.release, ranking=record)), running)
    assert "the record says 0000000000000000" in reason


def test_a_running_release_that_cannot_be_read_is_a_refusal(tmp_path: Path, running: ReleaseFolder) -> None:
    new = write_release(tmp_path, "new", good())
    (running.path / RANKING / "manifest.json").unlink()
    (reason,) = refusals(new, running)
    assert "the running release cannot be read" in reason and "--anyway" in reason


OTHER = {
    "another name": replace(FEATURES, name="other"),
    "ids of another kind": replace(FEATURES, item_id=Categorical(name="item_id", id_type="string")),
    "a feature not at the end": replace(FEATURES, user=(Numeric(name="height"), *FEATURES.user)),
    "a feature less": replace(FEATURES, user=FEATURES.user[:1]),
    "no history any more": replace(FEATURES, history=None),
    "an entity less": replace(FEATURES, entities=()),
    "another default": replace(FEATURES, item=(Numeric(name="price", default=1.0),)),
    "an event of another layout": replace(
        FEATURES,
        history=replace(FEATURES.history, attributes=(Categorical(name="rating", storage="i32"),)),  # type: ignore[type-var]
    ),
}


@pytest.mark.parametrize("features", OTHER.values(), ids=OTHER)
def test_a_feature_set_that_the_store_cannot_serve_is_refused(
    tmp_path: Path, running: ReleaseFolder, features: FeatureSet
) -> None:
    (reason,) = refusals(write_release(tmp_path, "new", good(), features=features), running)
    assert f"FeatureSet {features.name!r}" in reason and "cannot be served" in reason


def test_a_feature_set_that_extends_the_running_one_is_not_refused_and_noted(
    tmp_path: Path, running: ReleaseFolder
) -> None:
    features = replace(FEATURES, item=(*FEATURES.item, Numeric(name="weight")))
    found = inspect(write_release(tmp_path, "new", good(), features=features), running, Bounds())
    assert found.refusals == ()
    assert any("weight" in note and "recsys materialize" in note for note in found.notes)


def write_both(store: Path, name: str) -> ReleaseFolder:
    """A release of a ranking and a retrieval bundle."""
    ranking = write_release(store, name, good())
    retrieval = write_tiny_retrieval(ranking.path / RETRIEVAL, features=FEATURES, certificate=CERTIFIED)
    return record_release(ranking.path, ranking=ranking.manifest(), retrieval=retrieval)


def test_a_release_that_lacks_the_running_ones_retrieval_bundle_is_refused(tmp_path: Path) -> None:
    (reason,) = refusals(write_release(tmp_path, "alone", good()), write_both(tmp_path, "both"))
    assert reason.startswith("retrieval: the release has no retrieval bundle")


def test_a_retrieval_bundle_is_guarded_as_the_ranking_bundle_is(tmp_path: Path) -> None:
    (reason,) = refusals(write_both(tmp_path, "new"), write_both(tmp_path, "running"))
    assert reason.startswith("retrieval: metrics cannot be compared: the release has no metrics")


def test_every_reason_is_given_at_once(tmp_path: Path, running: ReleaseFolder) -> None:
    features = replace(FEATURES, name="other")
    new = write_release(tmp_path, "new", measured(signal=1.0), certificate=BY_HAND, features=features)
    text = "\n".join(refusals(new, running))
    assert "no parity certificate" in text and "cannot be served" in text and "ranking: auc:" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acu=1%", "did you mean 'auc'"),
        ("-1", "a number from 0"),
        ("auc=lots", "a number from 0"),
        ("nan%", "a number"),
    ],
)
def test_margins_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_bounds([text], smallest_segment=100, standard_errors=3.0)


def test_margins_are_shares_or_in_the_metrics_unit() -> None:
    bounds = parse_bounds(["5%", "log_loss=0.01", "auc=2%"], smallest_segment=7, standard_errors=1.0)
    assert bounds.of("gauc").allowed(0.8) == pytest.approx(0.04)
    assert bounds.of("log_loss").allowed(0.5) == 0.01
    assert bounds.of("auc").allowed(0.5) == pytest.approx(0.01)
    assert (bounds.smallest_segment, bounds.standard_errors) == (7, 1.0)
