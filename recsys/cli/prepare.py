"""`recsys prepare`: raw event logs into a folder to train on."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli.options import (
    CompleteOption,
    FutureToleranceOption,
    IgnoreOption,
    IgnoreUnknownOption,
    JsonOption,
    StrictOption,
    TimestampOption,
    TimeUnitOption,
    notes,
    output,
    read_features,
    show_warnings,
    time_unit_of,
)
from recsys.errors import ConfigError, nearest
from recsys.serving.settings import Settings

if TYPE_CHECKING:
    from recsys.data.log.prepare import PrepareSummary

_DURATIONS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


def prepare(
    log: Annotated[
        list[str], typer.Argument(help="Event logs: Parquet, CSV, TSV or JSON lines; files, folders or patterns.")
    ],
    features: Annotated[Path, typer.Option("--features", help="FeatureSet in JSON: the schema of the columns.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; appears only when complete.")],
    users: Annotated[
        str | None, typer.Option("--users", help="File of users and their features. Default: ids only.")
    ] = None,
    items: Annotated[
        str | None, typer.Option("--items", help="File of items and their features. Default: ids only.")
    ] = None,
    entity: Annotated[list[str] | None, typer.Option("--entity", help="NAME=FILE of another declared entity.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--labels", help="Files of labelled impressions: these become the samples.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Rule that labels a row, like rating>=4. Default: the column label.")
    ] = None,
    requests: Annotated[
        list[str] | None,
        typer.Option(
            "--requests", help="Request logs (`recsys serve --log-requests`): what they showed becomes the samples."
        ),
    ] = None,
    window: Annotated[
        str, typer.Option("--window", help="With --requests: time in which an event makes a shown item positive: 30m.")
    ] = "30m",
    negatives: Annotated[
        int,
        typer.Option("--negatives", help="Rows are positives: draw so many items that the user never took for each."),
    ] = 0,
    negatives_by: Annotated[
        str, typer.Option("--negatives-by", help="uniform, or popularity: by events up to that moment.")
    ] = "uniform",
    negatives_seed: Annotated[int, typer.Option("--negatives-seed", help="Random seed of the draw.")] = 0,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Write events alone, nothing to train on; labels are left out.")
    ] = False,
    validation_from: Annotated[
        str | None, typer.Option("--validation-from", help="Start of validation: 2026-01-31, with a time, or ms.")
    ] = None,
    test_from: Annotated[str | None, typer.Option("--test-from", help="Start of test, likewise.")] = None,
    leave_last: Annotated[
        bool, typer.Option("--leave-last", help="Split by user: the last moment tests, the one before validates.")
    ] = False,
    timestamp: TimestampOption = "timestamp_ms",
    time_unit: TimeUnitOption = "ms",
    future_tolerance_s: FutureToleranceOption = Settings.future_tolerance_s,
    ignore: IgnoreOption = None,
    ignore_unknown: IgnoreUnknownOption = False,
    complete: CompleteOption = False,
    unknown: Annotated[
        str,
        typer.Option(
            "--unknown",
            help="Users and items of the log that --users and --items lack: keep them, without features, or reject.",
        ),
    ] = "keep",
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Where rows that do not fit are set aside. Default: OUT.rejected.jsonl."),
    ] = None,
    strict: StrictOption = False,
    engine: Annotated[
        str, typer.Option("--engine", help="duckdb, or spark (SPARK_MASTER names a cluster: docs/guides/data.md).")
    ] = "duckdb",
    memory_limit: Annotated[
        str, typer.Option("--memory-limit", help="Memory limit of the process, such as 4GB.")
    ] = "4GB",
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of the engine. Default: all cores; not with SPARK_MASTER.")
    ] = None,
    temp_dir: Annotated[
        Path | None,
        typer.Option("--temp-dir", help="Folder for the sort's temporary files. Default: next to the result."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sort event logs of any size into a folder to train on: events, and point-in-time samples."""
    from recsys.data.log.negatives.rule import NegativeRule
    from recsys.data.log.prepare import UNKNOWN, RawInputs, prepare_log
    from recsys.data.log.splits.rule import SplitRule
    from recsys.progress import by_name, progress
    from recsys.rows.contract import ReadOptions
    from recsys.rows.label_rule import parse_label

    entities = dict(_named(given) for given in entity or [])
    entities |= {name: given for name, given in (("user", users), ("item", items)) if given is not None}
    declared = read_features(features)
    if unknown not in UNKNOWN:
        raise ConfigError(f"--unknown {unknown!r}: {nearest(unknown, UNKNOWN)}")
    reading = ReadOptions(
        timestamp=timestamp,
        unit=time_unit_of(time_unit),
        ignored=tuple(ignore or ()),
        ignore_unknown=ignore_unknown,
        complete=complete,
        future_tolerance_s=future_tolerance_s,
    )
    inputs = RawInputs(
        log=tuple(log),
        entities=entities,
        labels=tuple(labels or ()),
        requests=tuple(requests or ()),
        options=reading,
        unknown="keep" if unknown == "keep" else "reject",
    )
    split = SplitRule(
        validation_from_ms=_milliseconds("--validation-from", validation_from),
        test_from_ms=_milliseconds("--test-from", test_from),
        leave_last=leave_last,
    )
    drawing = NegativeRule(per_positive=negatives, by=negatives_by, seed=negatives_seed) if negatives else None
    if drawing is None and (negatives_by != "uniform" or negatives_seed):
        raise ConfigError("--negatives-by and --negatives-seed need --negatives N, the number for each positive")
    with progress(notes, "sorting") as work:
        summary = prepare_log(
            declared,
            inputs,
            out,
            engine=engine,
            memory_limit_bytes=parse_size(memory_limit),
            threads=threads,
            work_dir=temp_dir,
            label=None if label is None else parse_label(label),
            split=split,
            negatives=drawing,
            window_ms=_duration_ms("--window", window),
            with_samples=not no_samples,
            rejects=rejects,
            strict=strict,
            report=by_name(work),
        )
    show_warnings((*summary.odd, *summary.warnings))
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(summary)}))
        return
    parts = {} if summary.split is None else summary.split.parts
    samples = ", ".join(f"{p.samples:,} {name} ({p.positives:,} positive)" for name, p in parts.items())
    output.print(
        f"{out}: {summary.users:,} users, {summary.items:,} items, {summary.events:,} events "
        f"({summary.repeated:,} repetitions left out) in {summary.elapsed_s:.1f} s\nsamples: {samples or 'none'}",
        highlight=False,
    )
    if (drawn := summary.negatives) is not None:
        output.print(
            f"negatives: {drawn.negatives:,} drawn for {drawn.positives:,} positives, in {drawn.moments:,} lists "
            f"({drawn.rule.per_positive} for each, {drawn.rule.by}, seed {drawn.rule.seed})",
            highlight=False,
        )
    if (joined := summary.requests) is not None:
        output.print(
            f"requests: {joined.requests:,}, which showed {joined.shown:,} items; of {joined.impressions:,} labelled "
            f"{joined.positives:,} were taken within {window}",
            highlight=False,
        )
    if summary.new_users or summary.new_items:
        output.print(
            f"new, and without features: {summary.new_users:,} users, {summary.new_items:,} items", highlight=False
        )
    _note(summary)
    if summary.samples:
        folder = out if "/" in str(out) else f"./{out}"
        output.print(f"\nNext: recsys train din data.dataset={folder}", markup=False)


def _note(summary: PrepareSummary) -> None:
    """Say what was left out, and which files patterns stood for."""
    lines = [f"patterns: {line}" for line in summary.matched]
    if summary.rejected:
        lines.append(f"{summary.rejected:,} rows did not fit, set aside in {summary.rejects}:")
        lines += [f"  {reason}" for reason in summary.reasons]
    lines += [f"{path}: the last line has no end, and was left; --complete reads it" for path in summary.unended]
    for line in lines:
        notes.print(line, markup=False, highlight=False, soft_wrap=True)


def parse_size(text: str) -> int:
    """Bytes of a size like ``4GB`` or ``512MiB``.

    >>> parse_size("4GB"), parse_size("1.5 GiB")
    (4000000000, 1610612736)

    Raises:
        ConfigError: no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"size {text!r}: expected a number and MB, GB, MiB or GiB, for example 4GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _duration_ms(option: str, text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r}: expected a number and s, m, h or d, for example 30m")
    return round(float(match[1]) * _DURATIONS_MS[match[2]])


def _milliseconds(option: str, text: str | None) -> int | None:
    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} is {text!r}: expected a date like 2026-01-31 (UTC), a time like 2026-01-31T12:00, "
            "or milliseconds since 1970"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)


def _named(text: str) -> tuple[str, str]:
    name, equals, given = text.partition("=")
    if not equals:
        raise ConfigError(f"--entity {text!r}: expected NAME=FILE")
    return name, given
