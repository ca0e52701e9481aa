"""Entry point: serve until a signal comes, with one process or several."""

from __future__ import annotations

from recsys.serving.process.signals import dump_stacks_on_sigusr1
from recsys.serving.settings import Settings


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish the running requests; returns the exit code.

    A signal during start-up ends that cleanly; the exit code is then 130. Call it from the main thread.

    Raises:
        ConfigError: no bundle is set, the port is taken, the Redis URL is malformed, or the ready file's
            place cannot be written.
        BundleError: the bundle is missing, altered, or does not fit this program.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    dump_stacks_on_sigusr1()
    # Each imports what the other need not load.
    if settings.workers == 1:
        from recsys.serving.process.server import serve_alone

        return serve_alone(settings)
    from recsys.serving.process.workers.supervisor import supervise

    return supervise(settings)
