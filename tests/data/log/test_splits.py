"""Splits of samples: whole moments, by share along time or by user; what is odd about a part is refused or said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.column_folder import folder_writer
from recsys.data.log.splits import cuts, write
from recsys.data.log.splits.rule import SPLITS, SplitReport, SplitRule
from recsys.data.log.splits.write import write_splits
from recsys.errors import InvalidInputError

Rows = list[tuple[int, int, int]]
"""(user, time, label), sorted."""


def split(folder: Path, rows: Rows, rule: SplitRule | None = None) -> tuple[SplitReport, dict[str, list[int]]]:
    """The report, and the sample numbers of each part."""
    user, time, label = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    with folder_writer(folder) as writer:
        report = write_splits(
            writer,
            rule or SplitRule(),
            count=len(rows),
            users=lambda part: user[part],
            times=lambda part: time[part],
            labels=lambda part: label[part],
        )
        found = {name: writer.column(f"split.{name}").tolist() for name in SPLITS}
        writer.finish(kind="splits", version=1, info={})
    assert sorted(sum(found.values(), [])) == list(range(len(rows)))
    assert {name: len(rows) for name, rows in found.items()} == {n: p.samples for n, p in report.parts.items()}
    return report, found


def at(*times: int, user: int = 0) -> Rows:
    """Samples of one user, with labels in turn."""
    return [(user, time, n % 2) for n, time in enumerate(times)]


@pytest.fixture(autouse=True)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and counts, so that both are crossed, where a test asks for them."""
    if getattr(request, "param", 0):
        monkeypatch.setattr(write, "_CHUNK", request.param)
        monkeypatch.setattr(cuts, "_BUCKETS", 4)


crossed = pytest.mark.parametrize("chunks", [0, 3], indirect=True)


@crossed
def test_the_default_is_eight_one_and_one_tenth_of_the_samples_however_time_is_spread(tmp_path: Path) -> None:
    # 90 of 100 samples are from the first second of a year.
    report, found = split(tmp_path / "s", at(*range(90), *range(30_000_000_000, 30_000_000_010)))
    assert found == {"train": [*range(80)], "validation": [*range(80, 90)], "test": [*range(90, 100)]}
    assert (report.rule, report.validation_from_ms, report.test_from_ms) == ("share", 80, 30_000_000_000)
    assert report.warnings == ()


def expected_cuts(times: list[int]) -> tuple[int, int]:
    """The definition: of the moments from the second to the last but one, the cut with a share nearest to 8/10 before
    it; of those after its moment, the one nearest to 9/10."""
    moments = sorted(set(times))
    before = {m: sum(t < m for t in times) for m in moments}

    def nearest(choices: list[int], tenths: int) -> int:
        share = tenths * len(times) // 10
        return min(choices, key=lambda m: (abs(before[m] - share), m))

    validation = nearest(moments[1:-1], 8)
    return validation, nearest([m for m in moments if m > validation], 9)


@crossed
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.sampled_from([0, 1, 2, 5, 6, 40, 41, 10**6, 253402300799999]), min_size=3, max_size=40))
def test_cuts_are_the_moments_nearest_to_the_shares(times: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    if len(set(times)) < 3:
        times = [*times, 3, 4, 7]
    rows = [(user, time, 0) for user, time in enumerate(times)]
    rows = [(user, time, int(user % 2)) for user, time, _ in rows]
    folder = tmp_path_factory.mktemp("splits") / "s"
    validation, test = expected_cuts(times)
    try:
        report, found = split(folder, rows)
    except InvalidInputError as error:  # a train part of one label
        assert "nothing to learn" in str(error)
        return
    assert (report.validation_from_ms, report.test_from_ms) == (validation, test)
    assert found["test"] == [n for n, time in enumerate(times) if time >= test]
    assert found["validation"] == [n for n, time in enumerate(times) if validation <= time < test]


@crossed
def test_three_days_are_a_day_for_each_part(tmp_path: Path) -> None:
    _, found = split(tmp_path / "s", at(*[1] * 40, *[2] * 30, *[3] * 30))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 40, "validation": 30, "test": 30}


def test_two_moments_leave_nothing_to_test_and_one_leaves_nothing_to_validate_either(tmp_path: Path) -> None:
    report, found = split(tmp_path / "two", at(*[1] * 5, *[2] * 5))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 5, "validation": 5, "test": 0}
    assert len(report.warnings) == 1
    assert (
        "the test part is empty: every sample is at one of two times, and a moment is never cut" in report.warnings[0]
    )
    report, found = split(tmp_path / "one", at(*[1000] * 6))
    assert len(found["train"]) == 6
    assert [w.partition(";")[0] for w in report.warnings] == [
        f"the {name} part is empty: every sample is at the same time, 1970-01-01T00:00:01Z, and a moment is never cut"
        for name in ("validation", "test")
    ]


@crossed
def test_the_last_moment_of_a_user_is_for_test_whole_and_the_one_before_for_validation(tmp_path: Path) -> None:
    rows = [
        *at(1, 1, 1, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, user=0),  # lists of impressions, longer than a chunk
        *at(7, 7, 7, 7, user=1),
        *at(7, 8, 8, user=2),
        *at(2, 3, 4, 4, user=4),
    ]
    report, found = split(tmp_path / "s", rows, SplitRule(leave_last=True))
    assert found == {
        "train": [*range(7), 22],
        "validation": [*range(7, 11), 19, 23],
        "test": [*range(11, 15), *range(15, 19), 20, 21, 24, 25],
    }
    assert report.rule == "leave_last" and report.validation_from_ms is None


@settings(max_examples=80, deadline=None)
@given(
    moments=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=12),
    chunk=st.sampled_from([1, 2, 3, 5, 100]),
)
def test_no_list_is_torn_wherever_a_chunk_ends(moments: list[tuple[int, int, int]], chunk: int) -> None:
    rows = sorted((user, time, 0) for user, time, length in moments for _ in range(length))
    user, time = (np.array([row[n] for row in rows]) for n in (0, 1))
    pieces = [slice(n, min(n + chunk, len(rows))) for n in range(0, len(rows), chunk)]
    last, previous = write._last_moments(pieces, lambda part: user[part], lambda part: time[part])
    for each in set(user.tolist()):
        own = sorted(set(time[user == each].tolist()))
        assert last[each] == own[-1]
        assert previous[each] == (own[-2] if len(own) > 1 else cuts.NO_TIME)


@pytest.mark.parametrize(
    ("rule", "rows", "message"),
    [
        (
            SplitRule(validation_from_ms=5, test_from_ms=9),
            at(6, 7, 8, 9),
            r"the train part would be empty: --validation-from is 1970-01-01T00:00:00\.005Z, and the first sample is "
            r"at 1970-01-01T00:00:00\.006Z; allowed: after that",
        ),
        (SplitRule(test_from_ms=5), at(6, 7), "the train part would be empty: --test-from is"),
        (
            SplitRule(leave_last=True),
            [*at(1, 2), *at(1, 1, 2, user=1)],
            "the train part would be empty: no user has samples at three moments, and --leave-last takes",
        ),
        (
            SplitRule(),
            [(0, time, 1) for time in range(10)],
            "all 8 samples of the train part have label 1, so there is nothing to learn: positives alone need .*"
            "--negatives N draws .* --labels FILES takes",
        ),
        (SplitRule(), [(0, time, 0) for time in range(10)], "have label 0.*: no sample is positive; look at the rule"),
        (
            SplitRule(),
            [(0, time, int(time > 8)) for time in range(10)],
            "all 8 samples of the train part have label 0.*: the later parts have both labels; cut later",
        ),
    ],
)
def test_a_train_part_that_teaches_nothing_is_refused(
    rule: SplitRule, rows: Rows, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        split(tmp_path / "s", rows, rule)


@pytest.mark.parametrize(
    ("rule", "rows", "warnings"),
    [
        (
            SplitRule(validation_from_ms=200, test_from_ms=300),
            at(*range(200)),
            [
                "the validation part is empty: no sample is from 1970-01-01T00:00:00.200Z on and before "
                "1970-01-01T00:00:00.300Z; they are from 1970-01-01T00:00:00Z to 1970-01-01T00:00:00.199Z; early",
                "the test part is empty: no sample is from 1970-01-01T00:00:00.300Z on; they are",
            ],
        ),
        (
            SplitRule(test_from_ms=100),
            at(*range(200)),
            ["the validation part is empty: no --validation-from was given; early stopping"],
        ),
        (
            SplitRule(validation_from_ms=100, test_from_ms=199),
            at(*range(200)),
            [
                "the test part has only 1 of 200 samples (0.5 %): --validation-from and --test-from cut there",
                "the only sample of the test part has label 1: AUC is not defined there",
            ],
        ),
        (
            SplitRule(leave_last=True),
            [*at(*range(400)), *at(0, user=1)],
            ["the validation part has only 1 of 401", "the only sample of the validation", "the test part has only 2"],
        ),
        (
            SplitRule(),
            at(*range(4), *[4] * 500),
            ["the train part has only 3 of 504", "the validation part has only 1 of 504", "the only sample"],
        ),
    ],
)
def test_a_part_that_is_empty_tiny_or_of_one_class_is_warned_of_with_the_reason(
    rule: SplitRule, rows: Rows, warnings: list[str], tmp_path: Path
) -> None:
    report, _ = split(tmp_path / "s", rows, rule)
    assert len(report.warnings) == len(warnings)
    for found, expected in zip(report.warnings, warnings, strict=True):
        assert found.startswith(expected), found


def test_parts_are_counted_with_their_positives_and_their_time(tmp_path: Path) -> None:
    report, _ = split(tmp_path / "s", at(*range(100, 200)))
    facts: dict[str, Any] = report.to_json()["parts"]
    assert facts["train"] == {"samples": 80, "positives": 40, "first_ms": 100, "last_ms": 179}
    assert facts["test"] == {"samples": 10, "positives": 5, "first_ms": 190, "last_ms": 199}
