"""Watch: the figures of a release in the minutes after it went live, until it is clear that they are fine, or not.

What is plain at once, as when most calls fail, is a verdict within seconds. All else must last: a figure that is beyond
its bound for some seconds says more of the machine, or of the store, than of the release.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from recsys.serving.process.releases.verdicts import FIGURES, Figure, findings, surely_beyond
from recsys.serving.settings import Settings
from recsys.serving.telemetry.release_figures import ReleaseFigures

BEFORE_S = 300.0
"""The release before is known by its figures over so long."""

_BLOCK_S = 5.0
_SPANS = (12, 60)
"""The latest blocks that are looked at: a minute, for what began late; five, for what is only sure over many calls."""

_FEWEST_BLOCKS = {"errors": 4, "p99": 6, "degraded": 6, "drift": 6}
_MOST_BLOCKS = 0.8
"""Share of the blocks that must be beyond the bound."""

_PLAIN_S = (3.0, 15.0)
_PLAIN_ERRORS = 0.5
"""Growth of the share of failed calls that is plain at once."""


class RecentFigures:
    """The figures of all slots over the last minutes, as they were read about once a second.

    Args:
        keep_s: how far back they go.
    """

    def __init__(self, *, keep_s: float = BEFORE_S + 30.0) -> None:
        self._keep_s = keep_s
        self._read: deque[tuple[float, Sequence[ReleaseFigures]]] = deque()
        self._began_s: dict[int, float] = {}

    def add(self, figures: Sequence[ReleaseFigures], now_s: float) -> None:
        """Take what was read; ``now_s`` (monotonic) never falls."""
        self._read.append((now_s, figures))
        while self._read[0][0] < now_s - self._keep_s:
            self._read.popleft()

    def began(self, slot: int, now_s: float) -> None:
        """Note that the slot is another release's from now on."""
        self._began_s[slot] = now_s

    def between(self, slot: int, from_s: float, until_s: float) -> ReleaseFigures:
        """The figures of a slot's release between two times, as nearly as they were read; zeros if they were not."""
        from_s = max(from_s, self._began_s.get(slot, from_s))
        first = last = None
        for read_s, figures in self._read:
            if read_s > until_s:
                break
            if first is None or read_s <= from_s:
                first = figures[slot]
            last = figures[slot]
        return ReleaseFigures() if first is None or last is None else last - first

    def latest(self, slot: int) -> ReleaseFigures:
        """All that was ever counted in a slot."""
        return self._read[-1][1][slot] if self._read else ReleaseFigures()


class Watch:
    """A release that went live, under observation.

    Args:
        recent: to which figures are added before every look; also before the release went live.
        model: the name that it answers.
        release, slot: of the release.
        previous, previous_slot: of the release before it.
        settings: the time, and the bounds.
        now_s: when it went live (monotonic).
    """

    def __init__(
        self,
        recent: RecentFigures,
        *,
        model: str,
        release: str,
        slot: int,
        previous: str,
        previous_slot: int,
        settings: Settings,
        now_s: float,
    ) -> None:
        self.model, self.release, self.previous = model, release, previous
        self.before = recent.between(previous_slot, now_s - BEFORE_S, now_s)
        """The figures of the release before."""
        self._recent, self._slot, self._settings = recent, slot, settings
        self._start = recent.latest(slot)
        self._began_s = self._looked_s = now_s
        self._block_s = min(_BLOCK_S, settings.release_watch_s / _SPANS[0])
        self._blocks: deque[tuple[float, frozenset[Figure]]] = deque(maxlen=_SPANS[-1])
        self._next_block_s = now_s

    def look(self, now_s: float) -> str:
        """Judge the figures up to now.

        Returns:
            The reason to go back, as a sentence; empty: there is none so far.
        """
        self._looked_s = now_s
        if plain := self._plain(now_s):
            return plain
        if now_s < self._next_block_s + self._block_s:
            return ""
        block = self._recent.between(self._slot, self._next_block_s, now_s)
        if block.calls:
            beyond = frozenset(finding.figure for finding in findings(self.before, block, self._settings))
            self._blocks.append((self._next_block_s, beyond))
        self._next_block_s = now_s
        return self._lasting(now_s)

    def finished(self, now_s: float) -> bool:
        """Tell if the time is over."""
        return now_s >= self._began_s + self._settings.release_watch_s

    def progress(self) -> str:
        """The figures so far, in words."""
        since = self._recent.latest(self._slot) - self._start
        mean, before = since.mean_score, self.before.mean_score
        scores = "" if mean is None else f", mean score {mean:.3f}" + ("" if before is None else f" ({before:.3f})")
        return (
            f"release {self.release!r} for {self.model!r} is watched for {self._looked_s - self._began_s:.0f} of "
            f"{self._settings.release_watch_s:g} s, beside {self.before.calls:,} calls of {self.previous!r} before: "
            f"{since.calls:,} calls, {100 * since.error_share:.3g} % failed ({100 * self.before.error_share:.3g} %), "
            f"p99 {since.latency.quantile_us(0.99) / 1000:.1f} ms "
            f"({self.before.latency.quantile_us(0.99) / 1000:.1f} ms), {100 * since.degraded_share:.3g} % degraded "
            f"({100 * self.before.degraded_share:.3g} %){scores}"
        )

    def _plain(self, now_s: float) -> str:
        before = (self.before.failed, self.before.calls)
        bound = max(_PLAIN_ERRORS, self._settings.release_max_errors)
        for span_s in _PLAIN_S:
            since = self._recent.between(self._slot, max(self._began_s, now_s - span_s), now_s)
            if not surely_beyond(before, (since.failed, since.calls), bound):
                continue
            for finding in findings(self.before, since, self._settings):
                if finding.figure == "errors":
                    return self._sentence(finding.text, now_s - max(self._began_s, now_s - span_s))
        return ""

    def _lasting(self, now_s: float) -> str:
        for span in _SPANS:
            blocks = list(self._blocks)[-span:]
            lasting = {
                figure
                for figure in FIGURES
                if len(blocks) >= _FEWEST_BLOCKS[figure]
                and sum(figure in beyond for _, beyond in blocks) >= _MOST_BLOCKS * len(blocks)
            }
            if not lasting:
                continue
            since = self._recent.between(self._slot, blocks[0][0], now_s)
            found = [f for f in findings(self.before, since, self._settings) if f.sure and f.figure in lasting]
            if found:
                return self._sentence("; ".join(finding.text for finding in found), now_s - blocks[0][0])
        return ""

    def _sentence(self, text: str, over_s: float) -> str:
        return (
            f"release {self.release!r} for {self.model!r} is worse than {self.previous!r} before it, in the last "
            f"{over_s:.0f} s: {text}"
        )
