"""Commands around a server: `serve`, `precompute-states` before it, `profile` its bundle, `top`: a view of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys.cli.options import (
    REDIS_DIR,
    CertificateOption,
    JsonOption,
    KeyOption,
    RedisDirOption,
    RedisOption,
    load_features,
    notes,
    open_table,
    output,
    warn_of_secret,
    with_features,
)
from recsys.errors import ConfigError
from recsys.serving.logs import configure_logs
from recsys.serving.settings import Settings, read_settings, settings_lines, settings_table

if TYPE_CHECKING:
    from recsys.serving.long_history.precompute import PrecomputedStates
    from recsys.top.page import Page

_SETTINGS = {row.name: row for row in settings_table()}


def _setting(name: str, *flags: str) -> Any:
    """An option that sets a server's setting; its meaning and default are the setting's own."""
    row = _SETTINGS[name]
    return typer.Option(*flags, help=f"{row.meaning[0].upper()}{row.meaning[1:]}. Default: {row.default}.")


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder of the bundle to serve. Default: RECSYS_BUNDLE.")
    ] = None,
    retrieval: Annotated[Path | None, _setting("retrieval")] = None,
    items_shard: Annotated[str | None, _setting("items_shard")] = None,
    releases: Annotated[Path | None, _setting("releases")] = None,
    host: Annotated[str | None, _setting("host")] = None,
    port: Annotated[int | None, _setting("port")] = None,
    insecure: Annotated[bool | None, _setting("insecure", "--insecure")] = None,
    access_file: Annotated[Path | None, _setting("access_file")] = None,
    redis_url: Annotated[str | None, _setting("redis_url")] = None,
    redis_dir: Annotated[Path | None, _setting("redis_dir")] = None,
    workers: Annotated[int | None, _setting("workers")] = None,
    tls_certificate: Annotated[Path | None, _setting("tls_certificate")] = None,
    tls_key: Annotated[Path | None, _setting("tls_key")] = None,
    tls_client_ca: Annotated[Path | None, _setting("tls_client_ca")] = None,
    health_port: Annotated[int | None, _setting("health_port")] = None,
    metrics_port: Annotated[int | None, _setting("metrics_port")] = None,
    log_format: Annotated[str | None, _setting("log_format")] = None,
    trace_share: Annotated[float | None, _setting("trace_share")] = None,
    trace_endpoint: Annotated[str | None, _setting("trace_endpoint")] = None,
    admin_port: Annotated[int | None, _setting("admin_port")] = None,
    max_candidates: Annotated[int | None, _setting("max_candidates")] = None,
    log_requests: Annotated[float | None, _setting("log_requests")] = None,
    request_log_dir: Annotated[Path | None, _setting("request_log_dir")] = None,
    ready_file: Annotated[Path | None, _setting("ready_file")] = None,
    materialize: Annotated[
        Path | None,
        typer.Option(
            "--materialize",
            help="Folder of `recsys prepare`, loaded into the store first, as `recsys materialize` does.",
        ),
    ] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting and stop.")] = False,
) -> None:
    """Serve a ranking bundle, a retrieval bundle, or both over gRPC until SIGTERM; or what a store of releases says.

    `recsys serve BUNDLE` serves a bundle; `recsys serve --releases FOLDER` follows the releases that
    `recsys release promote` names, and switches without losing a call.

    Environment variables (REDIS_URL, RECSYS_*) set what options do not; docs/reference/settings.md lists them all.
    """
    # Before the settings are read, which may warn.
    if (log_format or os.environ.get("RECSYS_LOG_FORMAT")) == "json":
        configure_logs("json")
    if redis_url is not None:
        warn_of_secret(redis_url)
    read = read_settings(
        os.environ,
        bundle=bundle,
        retrieval=retrieval,
        items_shard=items_shard,
        releases=releases,
        host=host,
        port=port,
        insecure=1 if insecure else None,
        access_file=access_file,
        redis_url=redis_url,
        redis_dir=redis_dir,
        workers=workers,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        health_port=health_port,
        metrics_port=metrics_port,
        log_format=log_format,
        trace_share=trace_share,
        trace_endpoint=trace_endpoint,
        admin_port=admin_port,
        max_candidates=max_candidates,
        log_requests=log_requests,
        request_log_dir=request_log_dir,
        ready_file=ready_file,
    )
    if settings:
        _print_settings(read)
        return
    if materialize is not None:
        from recsys.cli.store import fill_store, say_materialized

        table = open_table(materialize)
        if read.bundle is not None:  # or its users would be stored where this server never looks
            table = with_features(table, load_features(str(read.bundle)))
        say_materialized(fill_store(table, read.redis_url, read.redis_dir))
    from recsys.serving.process.serve import serve as run_server

    raise typer.Exit(run_server(read))


def precompute_states(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle whose model sums long histories (sdim).")],
    processes: Annotated[int, typer.Option(help="Processes that compute, each on one core.", min=1)] = 1,
    ttl_s: Annotated[
        int,
        typer.Option("--ttl-s", help="Seconds for which a state is kept, as RECSYS_STATE_TTL_S of the server.", min=60),
    ] = Settings.state_ttl_s,
    max_users_per_s: Annotated[
        float,
        typer.Option(
            help="Most users with a long history per second, so that servers do not feel it; a user whose history is "
            "read counts once more for each 1,024 events. 0: no bound.",
            min=0,
        ),
    ] = 0.0,
    active_within_s: Annotated[
        int,
        typer.Option(
            "--active-within-s",
            help="Only users with an event in so many seconds before now: of the others no request is expected. "
            "0: all users.",
            min=0,
        ),
    ] = 0,
    redis_url: RedisOption = None,
    redis_dir: RedisDirOption = REDIS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Compute the states of users with a long history before a new bundle is served, those active last first.

    Runs at a low priority. Can be run again: only what is missing or lags behind is computed.
    """
    from recsys.bundle import open_bundle
    from recsys.feature_store.embedded.open_redis import redis_or_embedded
    from recsys.progress import BatchProgress
    from recsys.serving.long_history.precompute import PrecomputeLimits
    from recsys.serving.long_history.precompute import precompute_states as compute

    opened = open_bundle(bundle)
    progress = BatchProgress(notes)
    limits = PrecomputeLimits(max_users_per_s=max_users_per_s, active_within_s=active_within_s, low_priority=True)

    def looking(read: int, total: int) -> None:
        progress.batch_done(lambda: f"looking for users with a long history, at {read:,} of {total:,}")

    def report(done: PrecomputedStates, total: int) -> None:
        progress.batch_done(lambda: _summary(done), lambda: _left(done, total))

    with redis_or_embedded(redis_url, redis_dir) as url:
        try:
            done = compute(
                opened, url, ttl_s=ttl_s, processes=processes, limits=limits, progress=report, looking=looking
            )
        except BaseException as error:
            progress.broken_off(error)
            raise
    if as_json:
        print(json.dumps({**dataclasses.asdict(done), "users_per_s": round(done.users_per_s)}))
    else:
        output.print(_summary(done), highlight=False, soft_wrap=True)
    if not done.users:
        notes.print(f"the store holds no history of FeatureSet {opened.features.name!r}, the bundle's")
    if done.refused:
        notes.print(f"{done.refused:,} users' keys hold bytes that are not ours, and were left as they are")
        raise typer.Exit(4)


def _summary(done: PrecomputedStates) -> str:
    left_out = f", {done.inactive:,} users not active lately left out" if done.inactive else ""
    return (
        f"{done.users:,} users in {done.elapsed_s:.1f} s: {done.written:,} states written, {done.kept:,} good already "
        f"({done.states_per_s:,.0f} states/s), {done.short:,} users need none{left_out}"
    )


def _left(done: PrecomputedStates, total: int) -> str:
    left = total - done.users
    if not done.states_per_s:
        return f"; {left:,} users left"
    return f"; {left:,} users left, {left / done.states_per_s:,.0f} s"


def profile(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    retrieval: Annotated[
        bool,
        typer.Option(
            "--retrieval",
            help="Of a retrieval bundle: its index beside scoring all items, by the share of items that are allowed.",
        ),
    ] = False,
    redis_url: RedisOption = None,
    history: Annotated[
        int | None,
        typer.Option(help="Events of each synthetic user, without --redis-url. Default: 1,000; with --retrieval 50."),
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates per request. Default: 200.")] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="With --retrieval: length of the lists. Default: 100.")
    ] = None,
    requests: Annotated[
        int, typer.Option(help="Requests that are measured; with --retrieval searches for each row of the table.")
    ] = 300,
    core: Annotated[int | None, typer.Option(help="Core to run on. Default: the last one.")] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Also draw the profile to this file; needs the training packages.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a Rank request's microseconds go, stage by stage and operator by operator.

    Real requests go through the server's own path in this process, without gRPC: users of the store at --redis-url, or
    synthetic ones in a private Redis. Beside it stands the time of the matrix products at this machine's speed.

    With --retrieval the bundle is one that finds items: a table of searches by its index and by scoring all items,
    where all are allowed, a tenth, a hundredth, a thousandth, or a category; with all in memory, and with no vector.
    """
    for option, given, of_retrieval in (
        ("--candidates", candidates, False),
        ("--png", png, False),
        ("--top-k", top_k, True),
    ):
        if given is not None and of_retrieval != retrieval:
            raise ConfigError(
                f"{option} {'is for --retrieval' if of_retrieval else 'is not for --retrieval'}: leave it out"
            )
    if retrieval:
        _profile_retrieval(
            bundle,
            redis_url=redis_url,
            history=history,
            top_k=100 if top_k is None else top_k,
            searches=requests,
            core=core,
            as_json=as_json,
        )
        return
    from recsys.profile.measure import profile_bundle
    from recsys.profile.report import as_json as to_json
    from recsys.profile.report import charts, print_profile

    found = profile_bundle(
        bundle,
        redis_url=redis_url,
        history=history,
        candidates=200 if candidates is None else candidates,
        requests=requests,
        core=core,
    )
    if as_json:
        print(json.dumps(to_json(found)))
    else:
        print_profile(found, output)
    if png is not None:
        from recsys.plots import write_png

        write_png(charts(found), png)
        notes.print(f"drawn: {png}")


def _profile_retrieval(bundle: Path, *, as_json: bool, **options: Any) -> None:
    from recsys.profile.retrieval.measure import profile_retrieval
    from recsys.profile.retrieval.report import as_json as to_json
    from recsys.profile.retrieval.report import print_retrieval
    from recsys.progress import progress

    with progress(notes, "searching") as work:

        def searched(name: str, done: int, of: int) -> None:
            if done == 1:
                work.stage(f"searching, {name} allowed", of)
            work.count(done, of)

        found = profile_retrieval(bundle, **options, progress=searched)
    if as_json:
        print(json.dumps(to_json(found)))
    else:
        print_retrieval(found, output)


def _print_settings(read: Any) -> None:
    for line in settings_lines(read):
        print(line)


def top(
    metrics_url: Annotated[
        str | None,
        typer.Option(
            help="The metrics page, http://HOST:PORT/metrics. Default: the one that the ready file names, or that of "
            "RECSYS_METRICS_PORT on RECSYS_METRICS_HOST, or RECSYS_HOST."
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            envvar="RECSYS_READY_FILE", help="Ready file of the server; read again whenever the server is away."
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca", envvar="RECSYS_CLIENT_TLS_CA", help="CAs (PEM) that an https:// page's certificate leads to."
        ),
    ] = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    every_s: Annotated[float, typer.Option("--every-s", help="Seconds between two readings.", min=0.1)] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the view once; so it is where there is no terminal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures once, as one JSON object.")] = False,
) -> None:
    """Show a running server in the terminal: calls, failures, latency, workers, releases, store. Ctrl-C ends it.

    The server needs a metrics page: `recsys serve --metrics-port 9090`. What is shown are its rates since the last
    reading; a server that goes away is waited for.
    """
    from rich.live import Live

    from recsys.client.types import Unavailable
    from recsys.top.page import PageAwayError, read_page, url_of_ready_file
    from recsys.top.screen import screen
    from recsys.top.watch import read_once, watch

    source = _source(metrics_url, ready_file, url_of_ready_file)

    def read() -> Page:
        tls = {"ca": tls_ca, "certificate": tls_certificate, "key": tls_key}
        return read_page(source(), timeout_s=max(1.0, every_s), **tls)

    if as_json or once or not output.is_terminal:
        try:
            figures = read_once(read, over_s=every_s)
        except PageAwayError as error:
            raise Unavailable("UNAVAILABLE", str(error)) from None
        if as_json:
            print(json.dumps(figures.as_dict()))
        else:
            output.print(screen(figures, width=output.width, source=source()), highlight=False)
        return
    shown = metrics_url or str(ready_file or source())
    with Live(console=output, screen=True, auto_refresh=False) as live:
        for view in watch(read, every_s=every_s):
            if view.figures is None:
                live.update(f"waiting for the server: {view.away}", refresh=True)
                continue
            live.update(screen(view.figures, width=output.width, source=shown, away=view.away), refresh=True)


def _source(url: str | None, ready_file: Path | None, of_file: Callable[[Path], str]) -> Callable[[], str]:
    """A function that says where the page is now.

    Raises:
        ConfigError: nothing says where it is.
    """
    if url is not None:
        return lambda: url
    if ready_file is not None:
        return lambda: of_file(ready_file)
    if port := os.environ.get("RECSYS_METRICS_PORT"):
        host = os.environ.get("RECSYS_METRICS_HOST") or os.environ.get("RECSYS_HOST", Settings.host)
        return lambda: f"http://{host}:{port}/metrics"
    raise ConfigError(
        "where is the server? give --metrics-url http://HOST:PORT/metrics, or --ready-file (the server's own), or set "
        "RECSYS_METRICS_PORT; a server has a page if it was started with --metrics-port"
    )
