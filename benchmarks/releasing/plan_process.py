"""A server of one process with one live release and one shadow, without a store of releases.

    python plan_process.py BUNDLE REDIS_URL READY COUNTS PERCENT

Both releases are the same bundle, loaded twice; ``PERCENT`` 0: no shadow. READY gets the address when it answers,
COUNTS is made: the figures of the releases, live first.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from recsys.releases.served import ServedModel
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.server import serving
from recsys.serving.process.startup import load_models
from recsys.serving.rpc.methods import METHODS
from recsys.serving.scheduling import use_batch_scheduling
from recsys.serving.settings import Settings
from recsys.serving.telemetry.layout import create_counter_file


def main(bundle: str, redis_url: str, ready: str, counts: str, percent: str) -> None:
    """Serve until SIGTERM."""
    signals = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    use_batch_scheduling()
    names = ("live", "shadow") if float(percent) else ("live",)
    releases = {
        name: PlannedRelease(name=name, ranking=Path(bundle), retrieval=None, slot=slot)
        for slot, name in enumerate(names)
    }
    model = ServedModel(live="live", shadow={name: float(percent) for name in names[1:]})
    plan = Plan(number=1, models={"reference": model}, default="reference", releases=releases)
    settings = Settings(bundle=Path(bundle), port=0, redis_url=redis_url)
    file = create_counter_file(Path(counts), workers=1, methods=METHODS.values())
    with load_models(settings, plan) as loaded, serving(settings, *loaded, counts=file) as server:
        part = Path(f"{ready}.part")
        part.write_text(server.address)
        part.rename(ready)
        signal.sigwait(signals)


if __name__ == "__main__":
    main(*sys.argv[1:])
