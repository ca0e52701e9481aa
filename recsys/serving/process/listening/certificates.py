"""Certificates of a server: followed in a thread of their own, and warned of before they end."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from recsys.certificates import Certificates, CertificateWatch, moment
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import certificate_files

_log = logging.getLogger("recsys.serving")

POLL_S = 1.0
"""Time between two looks at the files."""

_DAY_S = 86_400.0
_WARN_SHARE = 0.2
"""Share of its whole time that a certificate has left when it is warned of: one of a day is renewed late."""

_REMIND_S = 6 * 3_600.0
"""Time between two warnings of the end of a certificate."""


@contextlib.contextmanager
def watched_certificates(
    settings: Settings, *, fallback: Certificates | None = None
) -> Iterator[CertificateWatch | None]:
    """Follow a server's certificates for the duration of a ``with`` block; None if it speaks no TLS.

    Args:
        settings: the server's.
        fallback: is in force if the files are no good at the start: the last good ones of another of its processes.

    Raises:
        ConfigError: they are no good, and there is no fallback.
    """
    files = certificate_files(settings)
    if files is None:
        yield None
        return
    watch = CertificateWatch(files, log=_log, fallback=fallback)
    reminders, broken = RateLimitedLog(_log, every_s=_REMIND_S), RateLimitedLog(_log)
    stop = threading.Event()

    def work() -> None:
        warn_of_end(watch.current, settings.tls_warn_days, log=reminders)
        while not stop.wait(POLL_S):
            try:
                watch.poll()
                warn_of_end(watch.current, settings.tls_warn_days, log=reminders)
            except Exception as error:  # the thread must not end: the next look may fare better
                broken.warning("poll", "certificates cannot be looked at: %s: %s", type(error).__name__, error)

    thread = threading.Thread(target=work, name="certificates", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def warn_of_end(certificates: Certificates, days: float, *, log: RateLimitedLog, now_s: float | None = None) -> None:
    """Log that a certificate ends soon, or has ended.

    Args:
        certificates: those in force.
        days: before the end, from which it is said; later, if the certificate was made for a short time.
        log: gets it.
        now_s: seconds since 1970; None: now.
    """
    left_s = certificates.ends_s - (time.time() if now_s is None else now_s)
    soon_s = min(days * _DAY_S, _WARN_SHARE * (certificates.ends_s - certificates.begins_s))
    if left_s <= 0:
        log.warning("ended", "the server's certificate ended on %s: callers refuse it", moment(certificates.ends_s))
    elif left_s < soon_s:
        log.warning("ends", "the server's certificate ends on %s: put a new one there", moment(certificates.ends_s))
