"""A certificate that ends soon is warned of, in time and not all the time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.certificates import DAY, Authority, mtls

from recsys.certificates import CertificateFiles, Certificates, read_certificates
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.process.listening.certificates import warn_of_end, watched_certificates
from recsys.serving.settings import Settings

DAY_S = DAY.total_seconds()


def certificates(folder: Path, *, days: float) -> Certificates:
    """Certificates of so many days, of which one has passed."""
    secret = mtls(Authority(ends=days * DAY), folder / "secret", ends=(days - 1) * DAY)
    return read_certificates(CertificateFiles(certificate=secret / "cert", key=secret / "key"))


@pytest.mark.parametrize(
    ("days", "left_days", "warned"),
    [
        (90, 15, False),
        (90, 13, True),
        (90, 0, True),
        (365, 15, False),
        (365, 13, True),
        (30, 7, False),  # more than a fifth of its time
        (30, 5, True),
        (2, 0.5, False),
        (2, 0.3, True),
    ],
)
def test_a_certificate_is_warned_of_days_before_it_ends_or_when_a_fifth_of_its_time_is_left(
    days: float, left_days: float, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RateLimitedLog(logging.getLogger("recsys.serving"), every_s=100.0)
    found = certificates(tmp_path, days=days)
    for _ in range(3):
        warn_of_end(found, 14.0, log=log, now_s=found.ends_s - left_days * DAY_S)
    word = "ends on" if left_days else "ended on"
    assert caplog.text.count(f"the server's certificate {word}") == warned
    caplog.clear()
    warn_of_end(found, 0.0, log=log, now_s=found.ends_s - 1)
    assert not caplog.text, "0 days: never"


def test_a_server_without_certificates_follows_none() -> None:
    with watched_certificates(Settings()) as watch:
        assert watch is None
