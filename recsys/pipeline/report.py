"""Records of what a pipeline did: ``report.json``, and ``metrics.prom`` for Prometheus' textfile collector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from recsys.files import write_atomically
from recsys.pipeline.days import iso, milliseconds
from recsys.pipeline.page import page
from recsys.pipeline.state import DayState, Status, all_states

REPORT, METRICS, PAGE = "report.json", "metrics.prom", "index.html"
METRIC_NAMES = ("auc", "log_loss", "recall", "ndcg")


def write_report(folder: Path, name: str, state: DayState) -> None:
    """Write the three files.

    Args:
        folder: of the pipeline.
        name: of the pipeline.
        state: of the day that ran.

    Raises:
        ConfigError, NoSpaceError: the folder cannot be written.
    """
    days, damaged = all_states(folder)
    rows = [day_facts(each) for each in days]
    report = {"pipeline": name, "ran": day_facts(state), "comparison": _comparison(state), "days": rows}
    report["damaged"] = damaged
    write_atomically(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False).encode() + b"\n")
    write_atomically(folder / METRICS, "".join(metric_lines(name, state, days)).encode())
    write_atomically(folder / PAGE, page(report).encode())


def day_facts(state: DayState) -> dict[str, Any]:
    """A day for people and machines.

    ``metrics`` are of the held-out samples: of the day's model (``candidate``) and of the one that was served before.
    """
    facts = {name: step.facts for name, step in state.steps.items()}
    look, gate, train = facts.get("look", {}), facts.get("gate", {}), facts.get("train", {})
    parts = {
        "candidate": (facts.get("measure"), facts.get("retrieval measure")),
        "served": (facts.get("served"), facts.get("retrieval served")),
    }
    return {
        "day": state.day,
        "until": iso(state.until_ms),
        "status": state.status,
        "reasons": state.reasons,
        "at": state.at,
        "release": state.release or facts.get("push", {}).get("release", ""),
        "base": state.base.get("release", ""),
        "mode": train.get("mode", ""),
        "why": train.get("why", ""),
        "retrieval": {name: facts.get("retrieval", {}).get(name) for name in ("mode", "why", "not_found", "new_items")},
        "rows": {
            "events": facts.get("samples", {}).get("events"),
            "rejected": facts.get("samples", {}).get("rejected"),
            "new_events": look.get("new_events"),
            "trained": look.get("train", {}).get("samples"),
            "held_out": look.get("test", {}).get("samples"),
        },
        "positives": look.get("train", {}).get("positives"),
        "drift": {name: look.get(name) for name in ("drift", "new_users", "new_items")},
        "metrics": {whose: _joined(of, "metrics") for whose, of in parts.items() if any(of)},
        "standard_errors": {whose: _joined(of, "standard_errors") for whose, of in parts.items() if any(of)},
        "notes": gate.get("notes", facts.get("samples", {}).get("notes", [])),
        "steps": {
            name: {"key": step.key, "seconds": step.seconds, "at": step.at} for name, step in state.steps.items()
        },
    }


def metric_lines(name: str, state: DayState, days: Sequence[DayState]) -> Iterator[str]:
    """Lines of ``metrics.prom``: how the last run ended, and the figures of its day."""
    facts = day_facts(state)
    promoted = [each for each in days if each.release and each.status == "promoted"]
    gauges: list[tuple[str, str, list[tuple[Mapping[str, str], float | None]]]] = [
        ("status", "1 for how the last run ended",
         [({"status": status}, float(status == state.status)) for status in get_args(Status)]),
        ("last_run_timestamp_seconds", "when the last run ended", [({}, _seconds(state.at))]),
        ("refusals", "reasons for which the last run promoted nothing",
         [({}, float(len(state.reasons) if state.status in ("refused", "failed") else 0))]),
        ("promoted_until_timestamp_seconds", "end of the newest day whose release was promoted",
         [({}, promoted[-1].until_ms / 1000)] if promoted else []),
        ("rows", "rows of the last run", [({"kind": kind}, count) for kind, count in facts["rows"].items()]),
        ("metric", "of the held-out samples, the day's model and the one that was served",
         [({"metric": metric, "model": whose}, of.get(metric))
          for whose, of in facts["metrics"].items() for metric in METRIC_NAMES]),
        ("items_not_found", "items with a positive that the index has not which the retrieval model keeps",
         [({}, facts["retrieval"]["not_found"])]),
        ("drift", "population stability index of the new events' items", [({}, facts["drift"]["drift"])]),
        ("step_seconds", "time of a step, when it was last taken",
         [({"step": step}, of["seconds"]) for step, of in facts["steps"].items()]),
    ]  # fmt: skip
    for gauge, what, values in gauges:
        if not (known := [(labels, value) for labels, value in values if value is not None]):
            continue
        yield f"# HELP recsys_pipeline_{gauge} {what}\n# TYPE recsys_pipeline_{gauge} gauge\n"
        for labels, value in known:
            shown = ",".join(f"{key}={json.dumps(text)}" for key, text in {"pipeline": name, **labels}.items())
            yield f"recsys_pipeline_{gauge}{{{shown}}} {value!r}\n"


def _joined(parts: Sequence[Mapping[str, Any] | None], what: str) -> dict[str, Any]:
    """Figures of a release's bundles."""
    return {name: value for of in parts if of for name, value in of[what].items()}


def _comparison(state: DayState) -> list[Mapping[str, Any]]:
    gate = state.steps.get("gate")
    return [] if gate is None else list(gate.facts["rows"])


def _seconds(at: str) -> float | None:
    return milliseconds(datetime.fromisoformat(at)) / 1000 if at else None
