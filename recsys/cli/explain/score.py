"""Explain a score of a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.cli.options import notes, output
from recsys.cli.requests.shared import DEGRADED, asking
from recsys.features.names import UnknownText

if TYPE_CHECKING:
    from recsys.client import Explanation
    from recsys.client.tls import Tls


def explain_score(
    address: str,
    *,
    tls: Tls | None = None,
    user: int | str,
    item: int | str,
    asked: Mapping[str, Any],
    timeout_s: float,
    shown: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Ask a server, and draw or print the answer.

    Args:
        address: the server's.
        tls: certificates, if it speaks TLS.
        user, item: whose score it is.
        asked: other arguments of ``Client.explain``.
        timeout_s: seconds to wait.
        shown: past events that are drawn.
        plot: a PNG to write, too.
        as_json: print JSON instead.

    Raises:
        RpcError: see ``recsys.client``.
        ConfigError: the picture cannot be written.
    """
    from recsys.cli.explain.drawing import event_chart, part_chart
    from recsys.plots import encodable, print_chart, write_png

    with asking(address, asked, tls=tls, timeout_s=timeout_s) as client:
        found = client.explain(user=user, item=item, timeout_s=timeout_s, **asked)
    charts = [part_chart(found, item), *event_chart(found, shown=shown)]
    if plot is not None:
        write_png(charts, plot)
    reasons = [DEGRADED.get(name, name) for name in found.degraded]
    if as_json:
        print(json.dumps({**facts(found, user, item), "degraded_because": reasons}))
        return
    output.print(
        encodable(f"user {user}, item {item}: score {found.score:.4f} = sigmoid({found.logit:+.4f})", output),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for chart in charts:
        output.print()
        print_chart(chart, output)
    for line in _remarks(found):
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    for reason in reasons:
        notes.print(f"degraded: {reason}", markup=False, highlight=False, soft_wrap=True)


def _remarks(found: Explanation) -> list[str]:
    """Sentences below the charts: how sure the numbers are, what is not in them, and who answered."""
    how = "exact, of all orders" if found.exact else f"estimated from {found.orders} orders of the parts"
    lines = [f"contributions are {how}; {found.runs} runs of the model"]
    if missing := [part.name for part in found.contributions if part.missing]:
        lines.append(f"without a value: {', '.join(missing)}")
    if found.older_events:
        lines.append(
            f"{found.older_events:,} older events, left out together: {found.older_leave_out:+.4f}; --max-events takes "
            "more of them one by one"
        )
    release = f", release {found.release}" if found.release else ""
    lines.append(
        f"{found.model} {found.model_version}{release}, {found.history_events:,} events of history; "
        f"{'degraded' if found.degraded else 'not degraded'}"
    )
    return lines


def facts(found: Explanation, user: int | str, item: int | str) -> dict[str, Any]:
    """An explanation as JSON has it."""
    events: list[dict[str, Any]] = []
    if found.events is not None:
        of = found.events
        for place in range(len(of.items)):
            event: dict[str, Any] = {
                "item": _plain(of.items[place]),
                "timestamp_ms": int(of.timestamps_ms[place]),
                "attributes": {name: _plain(column[place]) for name, column in of.attributes.items()},
                "leave_out": float(of.leave_out[place]),
            }
            if of.shared_signatures is not None:
                event["shared_signatures"] = int(of.shared_signatures[place])
            if of.attention is not None:
                event["attention"] = float(of.attention[place])
            events.append(event)
    parts = [
        {
            "name": part.name,
            "side": part.side,
            "value": [_plain(v) for v in part.value] if isinstance(part.value, list) else _plain(part.value),
            "missing": part.missing,
            "contribution": part.contribution,
            "standard_error": part.standard_error,
            "leave_out": part.leave_out,
        }
        for part in found.contributions
    ]
    return {
        "user": user,
        "item": item,
        "score": found.score,
        "logit": found.logit,
        "base_logit": found.base_logit,
        "contributions": parts,
        "exact": found.exact,
        "orders": found.orders,
        "events": events,
        "history_events": found.history_events,
        "older_events": found.older_events,
        "older_leave_out": found.older_leave_out,
        "signatures": found.signatures,
        "time_ms": found.time_ms,
        "runs": found.runs,
        "model": found.model,
        "model_version": found.model_version,
        "release": found.release,
        "degraded": list(found.degraded),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: a text that is not known as its key's description."""
    if isinstance(value, UnknownText):
        return str(value)
    return value.item() if hasattr(value, "item") else value
