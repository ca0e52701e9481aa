"""Parts of a split that are empty, tiny or of one class: refused, or warned of with the reason."""

from __future__ import annotations

import datetime
from dataclasses import replace

from recsys.data.log.splits.rule import Part, SplitReport, SplitRule
from recsys.errors import InvalidInputError

TINY = 0.01
"""Share of the samples below which a part is warned of."""


def checked(report: SplitReport, rule: SplitRule, count: int) -> SplitReport:
    """The report with its warnings.

    Raises:
        InvalidInputError: there is nothing to train on, or all of it has one label.
    """
    train = report.parts["train"]
    first, last = _span(report.parts)
    if train.samples == 0:
        raise InvalidInputError(f"the train part would be empty: {_why_no_training(report, rule, first)}")
    if train.positives in (0, train.samples):
        label = int(train.positives > 0)
        raise InvalidInputError(
            f"{_all(train)} of the train part {_have(train)} label {label}, so there is nothing to learn: "
            + _why_one_label(report, label, count)
        )
    warnings = []
    for name, part in report.parts.items():
        if part.samples == 0:
            warnings.append(f"the {name} part is empty: {_why_empty(report, name, first, last)}; {_WITHOUT[name]}")
            continue
        if part.samples < TINY * count:
            share = f"{part.samples:,} of {count:,} samples ({100 * part.samples / count:.2g} %)"
            warnings.append(f"the {name} part has only {share}: {_why_tiny(report)}")
        if part.positives in (0, part.samples):
            warnings.append(
                f"{_all(part)} of the {name} part {_have(part)} label {int(part.positives > 0)}: AUC is not "
                "defined there, and `recsys train` refuses it; cut elsewhere with --validation-from and --test-from"
            )
    return replace(report, warnings=tuple(warnings))


_WITHOUT = {
    "validation": "early stopping and `recsys compress` need one",
    "test": "`recsys evaluate` has nothing to measure there",
}


def _why_no_training(report: SplitReport, rule: SplitRule, first: int) -> str:
    if report.rule == "leave_last":
        return (
            "no user has samples at three moments, and --leave-last takes a user's last two; leave it out to split "
            "along time"
        )
    option = "--test-from" if rule.validation_from_ms is None else "--validation-from"
    start = rule.test_from_ms if rule.validation_from_ms is None else rule.validation_from_ms
    assert start is not None, "a cut that was chosen leaves something before it"
    return f"{option} is {_written(start)}, and the first sample is at {_written(first)}; allowed: after that"


def _why_one_label(report: SplitReport, label: int, count: int) -> str:
    if 0 < sum(part.positives for part in report.parts.values()) < count:
        return "the later parts have both labels; cut later, with --validation-from and --test-from"
    if label:
        return (
            "positives alone need something to be told from. --negatives N draws items that the user did not take, "
            "--labels FILES takes impressions, clicked and not"
        )
    return "no sample is positive; look at the rule of --label, or at the column label"


def _why_empty(report: SplitReport, name: str, first: int, last: int) -> str:
    if report.rule == "leave_last":
        return "no user has samples at two moments"
    if report.rule == "share":
        moments = f"the same time, {_written(first)}" if first == last else "one of two times"
        return f"every sample is at {moments}, and a moment is never cut"
    start = report.validation_from_ms if name == "validation" else report.test_from_ms
    if start is None or (name == "validation" and start == report.test_from_ms):
        return f"no --{name}-from was given"
    until = f" and before {_written(report.test_from_ms)}" if name == "validation" and report.test_from_ms else ""
    return f"no sample is from {_written(start)} on{until}; they are from {_written(first)} to {_written(last)}"


def _why_tiny(report: SplitReport) -> str:
    return {
        "share": "a moment is never cut, and a few moments have most samples",
        "time": "--validation-from and --test-from cut there",
        "leave_last": "--leave-last takes one moment of each user for it",
    }[report.rule]


def _all(part: Part) -> str:
    return "the only sample" if part.samples == 1 else f"all {part.samples:,} samples"


def _have(part: Part) -> str:
    return "has" if part.samples == 1 else "have"


def _span(parts: dict[str, Part]) -> tuple[int, int]:
    some = [(part.first_ms, part.last_ms) for part in parts.values() if part.first_ms is not None]
    return min(first for first, _ in some), max(last for _, last in some if last is not None)


def _written(time_ms: int | None) -> str:
    """ISO 8601, in UTC."""
    assert time_ms is not None
    moment = datetime.datetime.fromtimestamp(time_ms // 1000, tz=datetime.UTC) + datetime.timedelta(
        milliseconds=time_ms % 1000
    )
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")
