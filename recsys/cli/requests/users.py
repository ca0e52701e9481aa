"""Requests for a user: `rank` given items, `recommend` or `retrieve` some."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from recsys.cli.options import (
    ADDRESS,
    CaOption,
    CertificateOption,
    JsonOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    tls_of,
)
from recsys.cli.requests.shared import (
    AddressOption,
    ExcludeOption,
    FallbackOption,
    FeatureOption,
    FilterOption,
    ModelOption,
    SeenOption,
    TextOption,
    TimeOption,
    TimeoutOption,
    TimingsOption,
    TopOption,
    UserOption,
    asking,
    feature_values,
    filter_of,
    item_ids,
    listed_items,
    milliseconds,
    outcome,
    print_list,
    raw_id,
    who,
)


def rank(
    user: UserOption,
    items: Annotated[str, typer.Option("--items", help="Item ids, comma-separated; - reads them from stdin.")],
    feature: FeatureOption = None,
    top: Annotated[int, typer.Option("--top", help="Only the best so many; 0 for all, in the given order.")] = 10,
    time: TimeOption = None,
    model: ModelOption = "",
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server to rank items for a user."""
    candidates = item_ids([sys.stdin.read() if items == "-" else items], text_ids)
    asked: dict[str, Any] = {"features": feature_values(feature or []), "time_ms": milliseconds(time), "model": model}
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        best = client.rank(user=raw_id(user, text_ids), candidates=candidates, top_k=top, timings=timings, **asked)
    facts: dict[str, Any] = {"model": best.model, "model_version": best.model_version, "release": best.release}
    facts |= {"history_events": best.history_events}
    summary = f"{who(best)}, {best.history_events} events of history"
    rows = list(zip(best.items, best.scores.tolist(), strict=True))
    print_list(best, rows, facts, summary, number="rank" if top else "position", listed="ranking", as_json=as_json)


def recommend(
    user: UserOption,
    feature: FeatureOption = None,
    top: TopOption = 10,
    candidates: Annotated[int, typer.Option(help="Items retrieved and then ranked; 0: 500, or --top.")] = 0,
    exclude: ExcludeOption = None,
    include_seen: SeenOption = False,
    time: TimeOption = None,
    model: Annotated[str, typer.Option("--model", help="Name of the ranking model. Default: the server's.")] = "",
    retrieval_model: Annotated[
        str, typer.Option("--retrieval-model", help="Name of the retrieval model. Default: the server's.")
    ] = "",
    test: FilterOption = None,
    fallback: FallbackOption = "",
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the best items for a user: retrieve, then rank."""
    asked: dict[str, Any] = {"features": feature_values(feature or []), "time_ms": milliseconds(time), "model": model}
    asked |= {"exclude": item_ids(exclude or [], text_ids), "retrieval_model": retrieval_model}
    asked |= {"candidates": candidates, "include_seen": include_seen, "timings": timings}
    asked |= {"filter": filter_of(test or []), "fallback": fallback}
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        best = client.recommend(user=raw_id(user, text_ids), top_k=top, **asked)
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "release": best.release,
        "retrieval_model": best.retrieval_model,
        "retrieval_model_version": best.retrieval_model_version,
        "retrieval_release": best.retrieval_release,
        "user_known": best.user_known,
        "history_events": best.history_events,
        "candidates": best.candidates,
    }
    known = _unknown("the retrieval model", best)
    release = f"(release {best.release}) " if best.release else ""
    summary = (
        f"best of {best.candidates} of {best.retrieval_model}, ranked by {best.model} "
        f"{release}from {best.history_events} events{known}"
    )
    facts |= outcome(best) | ({"fallback": best.fallback} if best.fallback else {})
    print_list(best, listed_items(best), facts, summary, as_json=as_json)


def retrieve(
    user: UserOption,
    feature: FeatureOption = None,
    top: TopOption = 100,
    exclude: ExcludeOption = None,
    include_seen: SeenOption = False,
    time: TimeOption = None,
    model: ModelOption = "",
    test: FilterOption = None,
    fallback: FallbackOption = "",
    timings: TimingsOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for the items that its retrieval model finds for a user."""
    asked: dict[str, Any] = {
        "features": feature_values(feature or []),
        "exclude": item_ids(exclude or [], text_ids),
        "time_ms": milliseconds(time),
        "model": model,
    }
    asked |= {"filter": filter_of(test or []), "fallback": fallback}
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, asked, tls=secured, timeout_s=timeout_s) as client:
        best = client.retrieve(
            user=raw_id(user, text_ids), top_k=top, include_seen=include_seen, timings=timings, **asked
        )
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "release": best.release,
        "user_known": best.user_known,
        "history_events": best.history_events,
    }
    known = _unknown("the model", best)
    summary = f"{who(best)}, {best.history_events} events left out{known}"
    facts |= outcome(best) | ({"fallback": best.fallback} if best.fallback else {})
    print_list(best, listed_items(best), facts, summary, as_json=as_json)


def _unknown(model: str, best: Any) -> str:
    """Text on what a user got whom the model does not know; empty for others."""
    if best.user_known:
        return ""
    lists = {"segment": "the most popular items of the user's segment", "trending": "what is trending"}
    return f"; {model} does not know the user: {lists.get(best.fallback, 'the most popular items')}"
