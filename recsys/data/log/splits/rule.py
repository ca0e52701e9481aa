"""Rule of a split, and the report of what it made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys.errors import ConfigError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Rule that says which samples train, validate and test.

    By time: validation from ``validation_from_ms``, test from ``test_from_ms`` on. With neither, the newest tenth of
    the samples is for test and the tenth before for validation, cut between two moments. Or ``leave_last``: each
    user's last moment is for test, the one before for validation.
    """

    validation_from_ms: int | None = None
    test_from_ms: int | None = None
    leave_last: bool = False

    def __post_init__(self) -> None:
        validation, test = self.validation_from_ms, self.test_from_ms
        if self.leave_last and (validation is not None or test is not None):
            raise ConfigError("split: leave_last goes without validation_from and test_from")
        if validation is not None and test is not None and validation > test:
            raise ConfigError(
                f"split: validation_from is {validation}, after test_from {test}; allowed: up to test_from"
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Samples of one part; ``first_ms`` and ``last_ms`` are None without any."""

    samples: int = 0
    positives: int = 0
    first_ms: int | None = None
    last_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Outcome of a split.

    Attributes:
        rule: ``share``, ``time`` or ``leave_last``.
        validation_from_ms, test_from_ms: the cuts along time, given or chosen; None: no such cut.
        parts: by name, in the order of ``SPLITS``.
        warnings: a sentence for each part that is empty, tiny or of one class.
    """

    rule: str
    validation_from_ms: int | None
    test_from_ms: int | None
    parts: dict[str, Part]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}
