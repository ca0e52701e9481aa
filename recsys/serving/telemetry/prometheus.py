"""Prometheus endpoint: an HTTP page that sums the workers' rows each time it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from recsys.errors import ConfigError
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.totals import read_totals

_PREFIX = "recsys_"


class TotalsCollector(Collector):
    """Collect a counter file for ``prometheus_client``.

    Args:
        path: made by ``layout.create_counter_file``.
        model: labels of ``recsys_model_info``.
    """

    def __init__(self, path: Path, model: Mapping[str, str]) -> None:
        self._path = path
        self._model = dict(model)

    def collect(self) -> Iterator[Metric]:
        """Yield all families. A status that no call has ended with is left out, except OK."""
        totals = read_totals(self._path)
        stages = HistogramMetricFamily(
            f"{_PREFIX}stage_seconds", "Time that a call of Ranker spent in a stage.", labels=["stage"]
        )
        for stage, histogram in totals.stages.items():
            ends = [f"{bound / 1e6:g}" for bound in BOUNDS_US] + ["+Inf"]
            counts = [*histogram.at_most, histogram.count]
            stages.add_metric([stage], list(zip(ends, counts, strict=True)), sum_value=histogram.sum_us / 1e6)
        yield stages
        for family in totals.families:
            counters = CounterMetricFamily(f"{_PREFIX}{family.name}", family.help, labels=list(family.labels))
            for values in family.combinations():
                amount = totals.counters[(family.name, *values)]
                if amount or family.name != "requests" or values[-1] == "OK":
                    counters.add_metric(values, amount)
            yield counters
        yield InfoMetricFamily(f"{_PREFIX}model", "The model that is served.", value=self._model)


@contextmanager
def metrics_server(path: Path, *, host: str, port: int, model: Mapping[str, str]) -> Iterator[int]:
    """Answer ``GET /metrics`` in a thread for the duration of a ``with`` block; yields the port, which 0 leaves open.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(TotalsCollector(path, model))
    try:
        # A host as gRPC takes it may be an IPv6 address in brackets.
        server, thread = start_http_server(port, addr=host.strip("[]"), registry=registry)
    except OSError as error:
        raise ConfigError(
            f"metrics cannot be offered on {host}:{port}: {error.strerror}; choose another port"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
