"""CertificateCollector: when the certificates in force end, and whether the files hold others that are no good."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recsys.certificates import CertificateWatch


class CertificateCollector(Collector):
    """Collect the state of certificates for ``prometheus_client``.

    Args:
        certificates: of this process; its files are those of all workers.
    """

    def __init__(self, certificates: CertificateWatch) -> None:
        self._certificates = certificates

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield GaugeMetricFamily(
            "recsys_certificate_begin_timestamp_seconds",
            "When the last of the server's certificates in force began, in seconds since 1970.",
            value=self._certificates.current.begins_s,
        )
        yield GaugeMetricFamily(
            "recsys_certificate_end_timestamp_seconds",
            "When the first of the server's certificates in force ends, in seconds since 1970.",
            value=self._certificates.current.ends_s,
        )
        yield GaugeMetricFamily(
            "recsys_certificate_files_refused",
            "1 while the certificate files hold what is no good, so that the last good ones stay in force.",
            value=float(bool(self._certificates.refused)),
        )
