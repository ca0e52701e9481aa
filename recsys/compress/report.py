"""A comparison of row maps as a picture, a table for people, and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from recsys.compress.comparison import Comparison, MeanStd, Row
from recsys.evaluation.report import LABELS
from recsys.files import make_folder, write_atomically
from recsys.plots import Chart, Series, write_png

COLUMNS = 12
"""Of the table: eight of all comparisons, two metrics beside, and two more."""


def headers(comparison: Comparison) -> tuple[str, ...]:
    """Headings of the table."""
    label, others = comparison.shown.label, comparison.shown.others
    return (
        *(
            "map",
            "budget",
            "tables",
            "maps",
            "tables, int8",
            f"validation {label}",
            "to full",
            f"test {label}",
            "to full",
        ),
        *(f"{split} {name}" for split, _, name in others),
        "training",
    )


def write_report(comparison: Comparison, out: Path) -> None:
    """``compress.png``, ``compress.md`` and ``compress.json`` in a folder.

    Raises:
        ConfigError: the folder cannot be written.
    """
    make_folder(out)
    write_png(charts(comparison), out / "compress.png")
    write_atomically(out / "compress.md", to_markdown(comparison).encode())
    text = json.dumps(to_json(comparison), indent=2, allow_nan=False)
    write_atomically(out / "compress.json", text.encode() + b"\n")


def charts(comparison: Comparison) -> list[Chart]:
    """Memory against the metric on the validation split, and on the test split where there is one.

    The recommended point is the one that validation chose in both. Only validation has the line of the best: on the
    test split nothing is chosen.
    """
    found = [_chart(comparison, "validation")]
    if comparison.full.runs[0].test is not None:
        found.append(_chart(comparison, "test"))
    return found


def cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table's rows under :func:`headers`; the last cells of an impossible one say why."""
    return [_cells(row, comparison) for row in comparison.rows]


def baseline_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Rows of popularity, chance and others that need no tables, under the same headers."""
    found, shown, full = [], comparison.shown, comparison.full
    splits = comparison.baselines
    for name in splits.get("validation", {}):

        def value(split: str, metric: str, name: str = name) -> float | None:
            number = splits.get(split, {}).get(name, {}).get(metric)
            return None if number is None else float(number)

        def text(split: str, metric: str) -> str:
            number = value(split, metric)
            return "none" if number is None else f"{number:.4f}"

        def to_full(split: str) -> str:
            number, of_full = value(split, shown.metric), full.of(split, shown.metric)
            return "" if number is None or of_full is None else f"{number - of_full.mean:+.4f}"

        both = [cell for split in ("validation", "test") for cell in (text(split, shown.metric), to_full(split))]
        found.append((name, *[""] * 4, *both, *(text(split, metric) for split, metric, _ in shown.others), ""))
    return found


def verdict(comparison: Comparison) -> list[str]:
    """Sentences on the metrics by which the recommended configuration is no better than a baseline.

    By the 95 % interval of each of its runs on the validation split.
    """
    runs = [run.baselines["validation"] for run in comparison.recommended.runs if "validation" in run.baselines]
    lines = []
    for name in runs[0] if runs else ():
        if not all(name in run for run in runs):  # one that would have taken long beside a short run
            continue
        leads = [run[name]["lead"] for run in runs]
        short = {
            metric: sum(lead[metric]["better"] != "model" for lead in leads) for metric in (leads[0] if leads else ())
        }
        if better := [LABELS.get(metric, metric) for metric, count in short.items() if not count]:
            lines.append(f"better than {name} by {', '.join(better)} on the validation split")
        for metric, count in short.items():
            if count:
                seeds = "" if len(runs) == 1 else f" in {count} of {len(runs)} seeds"
                differences = ", ".join(f"{lead[metric]['difference']:+.4f}" for lead in leads)
                lines.append(
                    f"no better than {name} by {LABELS.get(metric, metric)}{seeds} on the validation split: "
                    f"difference {differences}"
                )
    return lines


def summary(comparison: Comparison) -> str:
    """The recommendation, and the rule it follows."""
    full, chosen, kind = comparison.full, comparison.recommended, comparison.settings.quantize
    within = f"within {comparison.tolerance:.4g} of the full vocabulary's validation {comparison.shown.label}"
    if chosen is full:
        return f"recommended: the full vocabulary; nothing that needs less memory is {within}"
    counted = "" if kind == "none" else f", tables counted as {kind}"
    own, of_full = chosen.size_bytes(kind), full.size_bytes(kind)
    return (
        f"recommended: {chosen.choice}: {megabytes(own)}, {own / of_full:.0%} of the full vocabulary's "
        f"{megabytes(of_full)}; the least memory {within}{counted}"
    )


def to_markdown(comparison: Comparison) -> str:
    """The table, with what is needed to read it."""
    seeds = comparison.settings.seeds
    names = headers(comparison)
    over = "One seed." if seeds == 1 else f"Means over {seeds} seeds ± sample standard deviation."
    lines = [
        f"# Memory against quality: {comparison.recipe}",
        "",
        summary(comparison)[:1].upper() + summary(comparison)[1:] + ".",
        *(f"The recommended one is {line}." for line in verdict(comparison)),
        "",
        f"{over} Tables are float32 unless said; chosen by validation, test only reported.",
        *(f"{note[:1].upper()}{note[1:]}." for note in comparison.shown.notes),
        "",
        f"![Memory against {comparison.shown.label}](compress.png)",
        "",
        f"| {' | '.join(names)} |",
        f"| --- | {' | '.join('---:' for _ in names[1:])} |",
    ]
    for row, texts in zip(comparison.rows, cells(comparison), strict=True):
        bold = "**" if row is comparison.recommended else ""
        texts = tuple(text.replace("|", r"\|") for text in texts)
        padding = ("",) * (COLUMNS - len(texts))
        lines.append(f"| {' | '.join((bold + texts[0] + bold, *texts[1:], *padding))} |")
    lines += [f"| {' | '.join(texts)} |" for texts in baseline_cells(comparison)]
    return "\n".join(lines) + "\n"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything measured. What has no value is null."""
    kind, shown = comparison.settings.quantize, comparison.shown
    metrics = [("validation", shown.metric), ("test", shown.metric), *(each[:2] for each in shown.others)]
    rows = []
    for row in comparison.rows:
        values: dict[str, Any] = {"map": row.choice.map, "budget": row.choice.budget, "impossible": row.impossible}
        if row.impossible is None:
            values |= {
                "table_bytes": {name: row.table_bytes(name) for name in row.runs[0].table_bytes},
                "map_bytes": row.map_bytes,
                **{f"{split}_{metric}": _mean_std_values(row.of(split, metric)) for split, metric in metrics},
                "train_s": _mean_std_values(row.mean_std(lambda run: run.train_s)),
                "on_front": row in comparison.front,
                "recommended": row is comparison.recommended,
                "runs": [dataclasses.asdict(run) for run in row.runs],
            }
        rows.append(values)
    return {
        "recipe": comparison.recipe,
        "data_fingerprint": comparison.fingerprint,
        "seeds": comparison.settings.seeds,
        "quantize": kind,
        "tolerance": comparison.tolerance,
        "baselines": {
            split: {name: {k: v for k, v in values.items() if k != "lead"} for name, values in found.items()}
            for split, found in comparison.baselines.items()
        },
        "recommended": {
            "map": comparison.recommended.choice.map,
            "budget": comparison.recommended.choice.budget,
            "size_bytes": comparison.recommended.size_bytes(kind),
            "run": comparison.recommended.runs[0].run,
        },
        "rows": rows,
    }


def megabytes(size_bytes: int) -> str:
    """In decimal units.

    >>> megabytes(58_230), megabytes(12_345_678)
    ('58.2 kB', '12.3 MB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} B"


def _chart(comparison: Comparison, split: str) -> Chart:
    kind, shown = comparison.settings.quantize, comparison.shown

    def series(name: str, rows: list[Row], *, ring: bool = False) -> Series:
        values = [row.of(split, shown.metric) or MeanStd(mean=float("nan"), std=None) for row in rows]
        return Series(
            name,
            x=[row.size_bytes(kind) for row in rows],
            y=[each.mean for each in values],
            error=None if ring or comparison.settings.seeds == 1 else [each.std or 0.0 for each in values],
            ring=ring,
        )

    by_map: dict[str, list[Row]] = {"full vocabulary": [comparison.full]}
    for row in comparison.possible[1:]:
        by_map.setdefault(row.choice.map, []).append(row)
    best: list[Series] = []
    if split == "validation":
        front = series("", comparison.front)
        # Stairs: the best that so much memory buys.
        ends = [*front.x[1:], max(row.size_bytes(kind) for row in comparison.possible)]
        x = [size for start_end in zip(front.x, ends, strict=True) for size in start_end]
        best = [Series("best for its memory", x, [value for value in front.y for _ in range(2)], line=True)]
    return Chart(
        title=f"{comparison.recipe}: {split} {shown.label}",
        x_label=f"memory of tables{'' if kind == 'none' else f' ({kind})'} and maps, bytes",
        y_label=f"{split} {shown.label}",
        series=[
            *best,
            *(series(name, rows) for name, rows in by_map.items()),
            series("recommended", [comparison.recommended], ring=True),
        ],
        log_x=True,
    )


def _cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    choice, full, shown = row.choice, comparison.full, comparison.shown
    budget = "" if choice.budget is None else f"{choice.budget:g}"
    if row.impossible is not None:
        return choice.map, budget, f"not possible: {row.impossible}"

    def difference(split: str) -> str:
        own, of_full = (each.of(split, shown.metric) for each in (row, full))
        return "" if row is full or own is None or of_full is None else f"{own.mean - of_full.mean:+.4f}"

    train = row.mean_std(lambda run: run.train_s)
    return (
        "full vocabulary" if row is full else choice.map,
        budget,
        megabytes(row.table_bytes("none")),
        megabytes(row.map_bytes),
        megabytes(row.table_bytes("int8")),
        *(cell for split in ("validation", "test") for cell in (_text(row.of(split, shown.metric)), difference(split))),
        *(_text(row.of(split, metric)) for split, metric, _ in shown.others),
        "" if train is None else f"{train.mean:.1f} s",
    )


def _text(value: MeanStd | None) -> str:
    if value is None:
        return "none"
    return f"{value.mean:.4f}" + ("" if value.std is None else f" ± {value.std:.4f}")


def _mean_std_values(value: MeanStd | None) -> dict[str, float | None] | None:
    return None if value is None else dataclasses.asdict(value)
