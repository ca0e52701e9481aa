"""ObservingSettings: what a server tells of itself, and writes down of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class ObservingSettings:
    """Settings of metrics, traces, logs and the ready file."""

    metrics_port: int | None = setting(
        None,
        "port of the metrics page (GET /metrics, for Prometheus) on metrics_host; unset: none",
        kind=int,
        low=0,
        high=65535,
    )
    metrics_host: str | None = setting(
        None,
        "address of the metrics page; unset: host. With TLS the page speaks it, too, but on a loopback address",
        kind=str,
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "form of the lines on standard error; json: one object a line, with the request id of the call that it is of",
        kind=str,
        choices=("text", "json"),
    )
    trace_share: float | None = setting(
        None,
        "share of calls that are traced (OpenTelemetry, needs `recsys[otel]`), where the caller has not decided: its "
        "traceparent counts; unset: none, whatever callers send",
        kind=float,
        low=0.0,
        high=1.0,
    )
    trace_endpoint: str | None = setting(
        None,
        "OTLP/gRPC address that spans are sent to, such as http://127.0.0.1:4317; unset: OTEL_EXPORTER_OTLP_ENDPOINT",
        kind=str,
    )
    log_requests: float = setting(
        0.0,
        "share of Rank requests whose model inputs and answers are logged to request_log_dir, for `recsys parity` and "
        "`recsys prepare --requests`",
        kind=float,
        low=0.0,
        high=1.0,
    )
    request_log_dir: Path = setting(Path("runs/requests"), "folder of the request log (Parquet files)", kind=Path)
    ready_file: Path | None = setting(
        None, "file that gets one JSON line with the address once the server answers", kind=Path
    )
