"""Rules that make samples of a log: which rows are positive, where negatives come from, which part each is in."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys.data.log.negatives.rule import NegativeRule
from recsys.data.log.splits.rule import SplitRule
from recsys.errors import ConfigError
from recsys.rows.label_rule import LabelRule

WINDOW_MS = 30 * 60_000
"""Time that users have to take what they were shown, by default."""

_LONGEST_WINDOW_MS = 366 * 86_400_000


@dataclass(frozen=True, kw_only=True)
class SampleRules:
    """Rules that make samples of a log.

    Attributes:
        label: what makes a row a sample, and its label; default: the column ``label``, if there is one.
        negatives: draw them for each positive: each event whose label is 1, or each event of a log without labels.
        window_ms: time after a logged request in which an event makes a shown item positive.
        split: which samples train, validate and test.
        wanted: False: no samples, whatever labels there are; True: an error without any. Default: if there are labels.
    """

    label: LabelRule | None = None
    negatives: NegativeRule | None = None
    window_ms: int = WINDOW_MS
    split: SplitRule = field(default_factory=SplitRule)
    wanted: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.window_ms <= _LONGEST_WINDOW_MS:
            raise ConfigError(f"window is {self.window_ms} ms; allowed: 1 ms to {_LONGEST_WINDOW_MS} ms, 366 days")

    def check(self, *, labels: bool, requests: bool) -> None:
        """Refuse two sources of samples, or one beside ``wanted=False``.

        Args:
            labels, requests: given.

        Raises:
            ConfigError: names both.
        """
        given = {"--labels": labels, "--requests": requests, "--negatives": self.negatives is not None}
        sources = [name for name, there in given.items() if there]
        if len(sources) > 1:
            raise ConfigError(
                f"{sources[0]} goes without {sources[1]}: each says what users did not take; allowed: one of them"
            )
        if self.wanted is False and (sources or self.label is not None):
            raise ConfigError(f"--no-samples goes without {sources[0] if sources else '--label'}")

    def no_samples(self, path: object, *, rows: int) -> ConfigError:
        """The error of a log of so many rows, that nothing makes samples of."""
        if not rows:
            return ConfigError(f"{path}: holds no rows, so there would be no samples to train on; expected events")
        return ConfigError(f"{path}: {_NO_SAMPLES}")


_NO_SAMPLES = """\
nothing says which rows are positive, so there would be no samples to train on. Choose one:
  --negatives 4        every row is something that a user took (a click, a play, a purchase): for each, four items
                       that the user never took are drawn
  --label "rating>=4"  some rows are positive, the others negative: a rule, or a column named label with 0 and 1
  --labels FILES       what users were shown is in other files: each row an item, with its label
  --requests FOLDER    what users were shown is in the server's request log
  --no-samples         events alone, nothing to train on: for `recsys materialize` and `recsys parity --requests`"""
