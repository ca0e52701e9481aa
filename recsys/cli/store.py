"""Commands that fill the feature store: `ingest` events, `materialize` a table."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli.options import (
    FEATURES_HELP,
    REDIS_DIR,
    WORK_DIR,
    CompleteOption,
    DataOption,
    FeaturesOption,
    JsonOption,
    RedisDirOption,
    RedisOption,
    StrictOption,
    WorkOption,
    load_features,
    load_table,
    notes,
    output,
    prepared_reading,
    time_unit_of,
    with_features,
)
from recsys.errors import ConfigError
from recsys.ingest.source import Pace
from recsys.serving.settings import Settings

if TYPE_CHECKING:
    from recsys.data.log.event_table import EventTable
    from recsys.ingest.dead_letters import DeadLetters
    from recsys.ingest.materialize import MaterializeResult
    from recsys.ingest.run import IngestCounts
    from recsys.ingest.source import Source
    from recsys.rows.contract import ReadOptions
    from recsys.rows.files import RawFile

_STREAM_PREFIX = "redis-stream:"
_SHOWN_REFUSALS = 10
_AS_PREPARED = "Default: as the prepared folder was read, else"


def ingest(
    features: FeaturesOption,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files (.parquet, .csv, .tsv, .jsonl, also .gz and .zst), folders or patterns of them, or - for JSON "
            "lines on standard input."
        ),
    ] = None,
    redis_stream: Annotated[str | None, typer.Option(help="Read this Redis Stream of the store's Redis.")] = None,
    kafka: Annotated[str | None, typer.Option(help="Read this Kafka topic.")] = None,
    brokers: Annotated[str | None, typer.Option(help="Kafka's brokers: host:port,host:port.")] = None,
    kafka_option: Annotated[
        list[str] | None, typer.Option(help="An option of librdkafka: security.protocol=SASL_SSL. May be repeated.")
    ] = None,
    kafka_options_file: Annotated[
        Path | None,
        typer.Option(help="File of such options, name=value, a line each: for passwords, which `ps` shows otherwise."),
    ] = None,
    group: Annotated[str, typer.Option(help="Consumer group, for --redis-stream and --kafka.")] = "recsys",
    consumer: Annotated[
        str | None, typer.Option(help="This consumer's name in the Redis Stream's group. Default: the host's.")
    ] = None,
    claim_idle_s: Annotated[
        float,
        typer.Option(
            help="Seconds after which another consumer's pending entries of the Redis Stream are claimed.", min=1.0
        ),
    ] = 60.0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more events at the end.")] = False,
    batch_events: Annotated[int, typer.Option(help="Events per batch of a Parquet file.", min=1)] = 500_000,
    flush_events: Annotated[
        int, typer.Option(help="Streams: events in a batch, at most ...", min=1)
    ] = Pace.flush_events,
    flush_ms: Annotated[int, typer.Option(help="... and milliseconds to wait for it to fill.", min=1)] = int(
        1000 * Pace.flush_s
    ),
    dead_letters: Annotated[
        str, typer.Option(help="Dead letters, the rejected events: a file of JSON lines, or redis-stream:NAME.")
    ] = "rejected.jsonl",
    strict: StrictOption = False,
    timestamp: Annotated[
        str | None, typer.Option("--timestamp", help=f"Column of the time. {_AS_PREPARED} timestamp_ms.")
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(
            "--time-unit", help=f"Unit of times that are numbers: s, ms, us or ns since 1970. {_AS_PREPARED} ms."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help=f"Name of a column to leave out. {_AS_PREPARED} none.")
    ] = None,
    ignore_unknown: Annotated[
        bool | None,
        typer.Option(
            "--ignore-unknown/--refuse-unknown",
            help=f"Leave out every column that nothing declares. {_AS_PREPARED} refuse.",
        ),
    ] = None,
    complete: CompleteOption = False,
    future_tolerance_s: Annotated[
        int, typer.Option(help="Seconds that an event's time may be in the future (clock skew).", min=0)
    ] = Settings.future_tolerance_s,
    retry_for: Annotated[float, typer.Option(help="Seconds to retry while the store is unavailable.", min=0.0)] = 60.0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Read files from their start, whatever was read before.")
    ] = False,
    redis_url: RedisOption = None,
    redis_dir: RedisDirOption = REDIS_DIR,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Read events from files or a stream into the store: resumable, each event once. See docs/guides/ingest.md."""
    from recsys.feature_store.embedded.open_redis import redis_or_embedded
    from recsys.feature_store.redis.link.connect import open_link
    from recsys.feature_store.redis.store import RedisFeatureStore
    from recsys.ingest import run
    from recsys.ingest.dead_letters import DeadLetterFile, DeadLetterStream
    from recsys.ingest.files import file_source
    from recsys.ingest.kafka import KafkaSource
    from recsys.ingest.redis_stream import RedisStreamSource
    from recsys.progress import BatchProgress
    from recsys.rows.contract import ReadOptions, event_rows

    if bool(sources) + bool(redis_stream) + bool(kafka) != 1:
        raise ConfigError("give one kind of source: files (or -), --redis-stream NAME, or --kafka TOPIC")
    if kafka and not brokers:
        raise ConfigError("--kafka needs --brokers host:port,host:port")
    files = _files(sources or [], follow=follow)
    options = _kafka_options(kafka_option or [], kafka_options_file)
    declared = load_features(features)
    prepared, labels = prepared_reading(features)
    reading = ReadOptions(
        timestamp=prepared.timestamp if timestamp is None else timestamp,
        unit=prepared.unit if time_unit is None else time_unit_of(time_unit),
        ignored=(*(ignore or prepared.ignored), *labels),
        ignore_unknown=prepared.ignore_unknown if ignore_unknown is None else ignore_unknown,
        complete=complete,
        future_tolerance_s=future_tolerance_s,
    )
    if labels or _as_options(prepared) != _as_options(ReadOptions()):
        notes.print(
            f"rows are read with{_as_options(reading)} (defaults: as {features} was)", markup=False, soft_wrap=True
        )
    contract = event_rows(declared, reading)
    pace = Pace(follow=follow, flush_events=flush_events, flush_s=flush_ms / 1000)

    async def feed(url: str, report: Callable[[IngestCounts], None]) -> IngestCounts:
        link = open_link(url)
        store = RedisFeatureStore.connect(url, declared)
        letters: DeadLetters = DeadLetterFile(Path(dead_letters))
        if dead_letters.startswith(_STREAM_PREFIX):
            letters = DeadLetterStream(dead_letters.removeprefix(_STREAM_PREFIX), link)
        read: list[Source]
        if redis_stream:
            name = consumer or socket.gethostname()
            read = [
                RedisStreamSource(
                    redis_stream, contract, link=link, group=group, consumer=name, claim_idle_s=claim_idle_s, pace=pace
                )
            ]
        elif kafka:
            read = [KafkaSource(kafka, contract, brokers=brokers or "", group=group, options=options, pace=pace)]
        else:
            read = [
                file_source(file, contract, batch_events=batch_events, pace=pace, complete=complete) for file in files
            ]
        try:
            return await run.ingest(
                store,
                declared,
                read,
                dead_letters=letters,
                future_tolerance_s=future_tolerance_s,
                retry_for_s=retry_for,
                restart=restart,
                strict=strict,
                report=report,
            )
        finally:
            await store.close()
            await link.close()

    progress = BatchProgress(notes)

    def report(counts: IngestCounts) -> None:
        progress.batch_done(lambda: _summary(counts, dead_letters))

    with redis_or_embedded(redis_url, redis_dir) as url:
        try:
            counts = asyncio.run(feed(url, report))
        except BaseException as error:
            progress.broken_off(error)
            raise
    if as_json:
        print(json.dumps({**dataclasses.asdict(counts), "events_per_s": round(counts.events_per_s)}))
        return
    output.print(_summary(counts, dead_letters), highlight=False, soft_wrap=True)
    for line in (*counts.reasons, *counts.left):
        notes.print(line, markup=False, highlight=False, soft_wrap=True)


def _as_options(reading: ReadOptions) -> str:
    ignored = "".join(f" --ignore {name}" for name in reading.ignored)
    unknown = " --ignore-unknown" if reading.ignore_unknown else ""
    return f" --timestamp {reading.timestamp} --time-unit {reading.unit}{ignored}{unknown}"


def materialize(
    table: Annotated[str, typer.Argument(help="movielens_1m, synthetic, or the folder of an event table.")],
    features: Annotated[str | None, typer.Option(help=f"{FEATURES_HELP} Default: the table's.")] = None,
    data: DataOption = None,
    redis_url: RedisOption = None,
    redis_dir: RedisDirOption = REDIS_DIR,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Load a table's users, items and histories into the feature store. Running it again changes nothing."""
    loaded = load_table(table, work_dir=work_dir, data=data)
    if features is not None:
        loaded = with_features(loaded, load_features(features))
    result = fill_store(loaded, redis_url, redis_dir)
    if as_json:
        print(json.dumps({**dataclasses.asdict(result), "events_per_s": round(result.events_per_s)}))
        return
    say_materialized(result)


def fill_store(table: EventTable, redis_url: str | None, redis_dir: Path) -> MaterializeResult:
    """Load a table's users, items and histories into the store, with progress.

    Raises:
        StoreError: the store cannot be reached, or holds what is not ours.
    """
    from recsys.feature_store.embedded.open_redis import redis_or_embedded
    from recsys.feature_store.redis.store import RedisFeatureStore
    from recsys.ingest.materialize import materialize as load
    from recsys.progress import progress_bar

    async def fill(url: str, advance: Callable[[int], None]) -> MaterializeResult:
        store = RedisFeatureStore.connect(url, table.features)
        try:
            return await load(store, table, progress=advance)
        finally:
            await store.close()

    with redis_or_embedded(redis_url, redis_dir) as url, progress_bar(notes, "events", total=len(table)) as advance:
        return asyncio.run(fill(url, advance))


def say_materialized(result: MaterializeResult) -> None:
    """Print what a load did.

    Raises:
        typer.Exit: 4, where histories were left as they are.
    """
    output.print(
        f"{result.users:,} histories with the newest {result.sent:,} of {result.events:,} events, "
        f"{result.kept:,} newer ones kept, in {result.elapsed_s:.1f} s ({result.events_per_s:,.0f} events/s)"
    )
    for name, count in result.left.items():
        notes.print(f"{count:,} {name}s are in no file: what the store holds of them stays", highlight=False)
    if result.refused:
        shown = "\n".join(result.refused[:_SHOWN_REFUSALS])
        notes.print(f"{len(result.refused):,} histories were left as they are:\n{shown}", markup=False, soft_wrap=True)
        raise typer.Exit(4)


def _files(names: Sequence[str], *, follow: bool) -> list[RawFile | None]:
    """The files to read; None for ``-``, standard input.

    Raises:
        ConfigError: several are to be followed.
        DataFileError: one is not there, or of a format that is not read.
    """
    from recsys.ingest.files import find_event_files

    files, matched = find_event_files(names)
    for line in matched:
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    if follow and len(files) > 1:
        raise ConfigError("--follow waits at the end of one file of lines; run one ingest per file")
    return files


def _kafka_options(given: Sequence[str], file: Path | None) -> Mapping[str, str]:
    """Options of the command line over those of a file; a secret on the command line is warned of."""
    from recsys.ingest.kafka_options import is_secret, parse_options, read_options

    on_line = parse_options(given, where="--kafka-option")
    if any(map(is_secret, on_line)):
        notes.print(
            "[yellow]warning:[/yellow] --kafka-option holds a secret, which `ps` shows to everybody here: put it into "
            "a file, see --kafka-options-file",
            highlight=False,
            soft_wrap=True,
        )
    return {**({} if file is None else read_options(file)), **on_line}


def _summary(counts: IngestCounts, dead_letters: str) -> str:
    rejected = f", {counts.rejected:,} rejected ({dead_letters})" if counts.rejected else ""
    lag = "" if counts.newest_ms < 0 else f", newest event {_ago(time.time() - counts.newest_ms / 1000)} ago"
    behind = "" if not counts.behind else f", {counts.behind:,} waiting"
    return (
        f"{counts.events:,} events, {counts.added:,} of them new{rejected}, in {counts.elapsed_s:.1f} s "
        f"({counts.events_per_s:,.0f} events/s{lag}{behind})"
    )


def _ago(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 86_400 else f"{seconds / 86_400:,.0f} days"
