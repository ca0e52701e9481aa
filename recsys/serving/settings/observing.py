"""ObservingSettings: what a server tells of itself, and writes down of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class ObservingSettings:
    """Settings of metrics, logs and the ready file."""

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
