"""Claims of the project's first design, beside what the recorded figures and the stored layout say."""

from __future__ import annotations

from dataclasses import dataclass

from sizing import memory, serving, store
from sizing.amounts import Amount
from sizing.deployment import Deployment, deployment
from sizing.recorded import Recorded

_AGREES = 0.15


@dataclass(frozen=True)
class Claim:
    """A number that the design gives, and the plan's.

    Attributes:
        about: in words.
        design: its number.
        plan: that of this plan.
        unit: of both.
        why: where the difference comes from.
    """

    about: str
    design: float
    plan: float
    unit: str
    why: str

    @property
    def agrees(self) -> bool:
        """Within 15 %."""
        return abs(self.plan / self.design - 1) <= _AGREES


def recorded_bytes(recorded: Recorded) -> list[tuple[str, float, Amount]]:
    """Histories whose bytes in Redis are recorded, in words, and in the sum of this plan; both in kB."""
    found = []
    for events, whole in (
        (1_000, 1_000 * recorded.number("event_bytes_1000")),
        (200, recorded.number("user_bytes_200")),
    ):
        given = {"events_per_user": events, "recent": 50, "event_bytes": recorded.number("record_bytes")}
        about = f"a history of {events:,} events of {given['event_bytes']:g} B, `recent` 50"
        found.append((about, whole / 1e3, store.history_bytes(deployment(1e6, given)) * 1e-3))
    return found


def why_utilisation(size: Deployment, recorded: Recorded) -> str:
    """A sentence."""
    end = serving.suffix_of(size)
    ms = 1e3 * recorded.number(f"rank_candidates{end}") / recorded.number(f"rank_per_core{end}")
    even, random = (recorded.number(f"rank_p99_{calls}{end}") for calls in ("even", "poisson"))
    return (
        f"Of a core that was {recorded.number(f'rank_load{end}'):.0%} busy with calls of {ms:.1f} ms, p99 was "
        f"{even:.0f} ms where calls came evenly and {random:.0f} ms where they came at random: so cores are planned "
        f"to be {size.utilisation:.0%} busy at the peak."
    )


def claims(size: Deployment, recorded: Recorded) -> list[Claim]:
    """Those that a plan depends on."""
    rate, int8_rate = recorded.number("rank_per_core"), recorded.number("rank_per_core.int8")
    beside = {
        end: 1 - recorded.number(f"rank_per_core{end}") / recorded.number(f"rank_bare{end}") for end in ("", ".int8")
    }
    long_map = 1024 * recorded.number("map_kib") / recorded.number("map_ids")
    per_million = recorded.number("retrieve_ms") / recorded.number("retrieve_items") * 1e6
    history_kb = store.history_bytes(size).value / 1e3
    design_cores = size.rank_per_s * size.candidates / 155_000
    return [
        Claim(
            "a core ranks, float32",
            155_000,
            rate,
            "candidates/s",
            "bare graphs on a faster core; now with gRPC and Redis",
        ),
        Claim("a core ranks, int8", 155_000, int8_rate, "candidates/s", "the same"),
        Claim(
            "cores busy with Rank, float32",
            design_cores,
            size.rank_per_s * serving.rank_ms(size, recorded).value / 1e3,
            "cores",
            "as above; plan with these over the utilisation",
        ),
        Claim(
            "share of a call beside the model, float32",
            0.1,
            beside[""],
            "share",
            "Python, gRPC and store with cold caches",
        ),
        Claim(
            "share of a call beside the model, int8",
            0.1,
            beside[".int8"],
            "share",
            "the model became faster, the rest did not",
        ),
        Claim(
            "a history of 1,000 events in Redis",
            16.0,
            history_kb,
            "kB",
            "records were of 16 B, and no string had grown",
        ),
        Claim("an id in an exact map", 20.0, long_map, "B", "two-choice buckets, as designed"),
        Claim("exact search of a million items", 22.0, per_million, "ms", "the index was made faster"),
        Claim(
            "memory of two releases' tables over one's",
            2.0,
            recorded.number("switch_limit"),
            "ratio",
            "enough for no failed call; 2 for none that reads the disk",
        ),
        Claim("memory of a worker", 150.0, 1e3 * memory.worker_gb(recorded), "MB", "the target's allowance"),
    ]
