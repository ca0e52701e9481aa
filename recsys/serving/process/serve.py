"""Entry point: serve until a signal comes, with one process or several."""

from __future__ import annotations

import contextlib
from queue import SimpleQueue
from typing import Any

from recsys.certificates import read_certificates
from recsys.errors import ConfigError
from recsys.serving.console import say
from recsys.serving.log_ids import use_log_ids
from recsys.serving.logs import configure_logs
from recsys.serving.process.exposure import check_exposure, unsecured
from recsys.serving.process.signals import dump_stacks_on_sigusr1, hangups_wait
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import certificate_files
from recsys.serving.telemetry.tracing.opened import check_tracing


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish the running requests; returns the exit code.

    With releases SIGHUP has ``served.json`` read again instead; during start-up, when that is over. Any other
    signal during start-up ends that cleanly; the exit code is then 130. Call it from the main thread.

    Raises:
        ConfigError: no bundle is set, the port is taken, the Redis URL is malformed, or the ready file's
            place cannot be written; certificates or the access file are no good, or others can reach the server and it
            is not secured.
        BundleError: the bundle is missing, altered, or does not fit this program.
        ReleaseError: what is to be served is damaged, and there is no release before it.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    if settings.admin_port is not None and settings.releases is None:
        raise ConfigError("admin_port is set, and a bundle is served; allowed: with releases only")
    if (files := certificate_files(settings)) is not None:
        read_certificates(files)  # what is wrong with them is said before models are loaded
    check_tracing(settings)
    configure_logs(settings.log_format)
    check_exposure(settings)
    if settings.access_file is not None:  # its error comes before models are loaded
        from recsys.serving.rpc.access.policy import read_policy

        read_policy(settings.access_file)
    use_log_ids(settings)
    dump_stacks_on_sigusr1()
    events: SimpleQueue[Any] = SimpleQueue()
    with contextlib.nullcontext() if settings.releases is None else hangups_wait(events):
        for line in unsecured(settings):
            say(f"unsecured: {line}")
        # Each imports what the other need not load.
        if settings.workers == 1 and settings.releases is None:
            from recsys.serving.process.server import serve_alone

            return serve_alone(settings)
        from recsys.serving.process.workers.supervisor import supervise

        return supervise(settings, events)
