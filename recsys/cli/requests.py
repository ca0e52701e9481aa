"""Requests to a running server: `rank` given items, `recommend` or `retrieve` some, find some `similar` to others."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import (
    ADDRESS,
    CaOption,
    CertificateOption,
    JsonOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    notes,
    output,
    tls_of,
)
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.client import Where

AddressOption = Annotated[str, typer.Option("--address", help="The server: host:port, or a host alone (port 50051).")]
UserOption = Annotated[str, typer.Option("--user", help="User id; quotes make a text of digits: '\"007\"'.")]
TextOption = Annotated[bool, typer.Option("--text-ids", help="Ids are strings, even if they look like numbers.")]
TopOption = Annotated[int, typer.Option("--top", help="Number of items.")]
FeatureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        metavar="NAME=VALUE",
        help="A context feature, or a user feature instead of the stored one; may be repeated. A value that looks like "
        "a number is one, anything else is text; quotes make text of a number (zip='\"10115\"'). Several values: "
        "with commas between, or the option again. Nothing after = is a missing value.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", help="Ids of items to leave out besides those of the history, comma-separated; may be repeated."
    ),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="TEST",
        help="Only items that pass; may be repeated, and all hold. category=shoes,boots: one of these; "
        "category!=socks: none of these; price<=50, price<50, price>=10, price>10; in_stock: it is set; "
        "!in_stock: it is 0. Quote it for the shell.",
    ),
]
SeenOption = Annotated[bool, typer.Option("--include-seen", help="Include items of the user's history.")]
TimeOption = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="Answer as of then, by the events that had happened and arrived: 2026-01-31T12:00 (UTC, unless it has an "
        "offset), or milliseconds since 1970. Default: now.",
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="Name of the model. Default: the server's.")]
TimingsOption = Annotated[bool, typer.Option("--timings", help="Print the time of each stage on the server.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]

DEGRADED = {
    "user": "the store did not give the user: history and stored features were taken as empty",
    "items": "the store did not give the items' features: they were taken as missing",
    "attributes": "the items' values, or which are withdrawn, may not be what the store has now",
    "counts": "the store did not give the counts: they are as they were read last, or there are none",
    "history": "only the newest part of a long history was looked at in the time there was; ask again for all of it",
}
"""The client's names of what was missing, in words."""

_NOBODY = ("failed to connect", "errors resolving", "DNS resolution failed")
"""gRPC's words for an address at which nothing listens, or that is none."""


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
    from recsys.client import Client

    candidates = item_ids([sys.stdin.read() if items == "-" else items], text_ids)
    asked: dict[str, Any] = {"features": feature_values(feature or []), "time_ms": milliseconds(time), "model": model}
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, asked), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
        best = client.rank(user=raw_id(user, text_ids), candidates=candidates, top_k=top, timings=timings, **asked)
    facts: dict[str, Any] = {"model": best.model, "model_version": best.model_version, "release": best.release}
    facts |= {"history_events": best.history_events}
    summary = f"{_who(best)}, {best.history_events} events of history"
    rows = list(zip(best.items, best.scores.tolist(), strict=True))
    _print(best, rows, facts, summary, number="rank" if top else "position", listed="ranking", as_json=as_json)


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
    from recsys.client import Client

    asked: dict[str, Any] = {"features": feature_values(feature or []), "time_ms": milliseconds(time), "model": model}
    asked |= {"exclude": item_ids(exclude or [], text_ids), "retrieval_model": retrieval_model}
    asked |= {"candidates": candidates, "include_seen": include_seen, "timings": timings}
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, asked), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
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
    known = "" if best.user_known else "; the retrieval model does not know the user: the most popular items"
    release = f"(release {best.release}) " if best.release else ""
    summary = (
        f"best of {best.candidates} of {best.retrieval_model}, ranked by {best.model} "
        f"{release}from {best.history_events} events{known}"
    )
    facts |= _outcome(best)
    _print(best, _found(best), facts, summary, as_json=as_json)


def retrieve(
    user: UserOption,
    feature: FeatureOption = None,
    top: TopOption = 100,
    exclude: ExcludeOption = None,
    include_seen: SeenOption = False,
    time: TimeOption = None,
    model: ModelOption = "",
    test: FilterOption = None,
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
    from recsys.client import Client

    asked: dict[str, Any] = {
        "features": feature_values(feature or []),
        "exclude": item_ids(exclude or [], text_ids),
        "time_ms": milliseconds(time),
        "model": model,
    }
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, asked), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
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
    known = "" if best.user_known else "; the model does not know the user: the most popular items"
    summary = f"{_who(best)}, {best.history_events} events left out{known}"
    facts |= _outcome(best)
    _print(best, _found(best), facts, summary, as_json=as_json)


def similar(
    items: Annotated[str, typer.Option("--items", help="Ids of 1 to 100 items, comma-separated.")],
    top: TopOption = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Ids of items to leave out besides these, comma-separated; may be repeated."),
    ] = None,
    model: ModelOption = "",
    test: FilterOption = None,
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
    """Ask a running server for the items most like given ones, by their vectors in its retrieval model."""
    from recsys.client import Client

    asked: dict[str, Any] = {"exclude": item_ids(exclude or [], text_ids), "model": model}
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, asked), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
        best = client.similar(items=item_ids([items], text_ids), top_k=top, timings=timings, **asked)
    facts = {
        "model": best.model,
        "model_version": best.model_version,
        "release": best.release,
        "unknown": best.unknown,
    }
    unknown = f"; nothing is known of {', '.join(map(str, best.unknown))}" if best.unknown else ""
    facts |= _outcome(best)
    _print(best, _found(best), facts, f"{_who(best)}{unknown}", as_json=as_json)


def trending(
    top: TopOption = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Ids of items to leave out, comma-separated; may be repeated."),
    ] = None,
    test: FilterOption = None,
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
    """Ask a running server for the items with most events lately, an event counting half after each half-life."""
    from recsys.client import Client

    asked: dict[str, Any] = {"exclude": item_ids(exclude or [], text_ids)}
    asked["filter"] = filter_of(test or [])
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, asked), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
        best = client.trending(top_k=top, timings=timings, **asked)
    facts = {"as_of_ms": best.as_of_ms, "half_life_s": best.half_life_s, "window_s": best.window_s, "stale": best.stale}
    summary = f"half-life {best.half_life_s:,} s"
    facts |= _outcome(best)
    _print(best, _found(best), facts, summary, as_json=as_json)


def withdraw(
    items: Annotated[list[str], typer.Option("--items", help="Ids of the items, comma-separated; may be repeated.")],
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
) -> None:
    """Withdraw items: no server retrieves them any more within a second, until they are put again."""
    from recsys.client import Client

    ids = item_ids(items, text_ids)
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with with_advice(address, {}), Client(address, timeout_s=timeout_s, tls=secured, **token_arguments()) as client:
        client.withdraw_items(items=ids)
    output.print(f"withdrawn: {len(ids):,} items; PutEntities or `recsys materialize` brings them back")


def token_arguments() -> dict[str, Any]:
    """The arguments of a client that send the token of the environment."""
    from recsys.client.token import token_options

    return token_options(os.environ)


@contextmanager
def with_advice(address: str, asked: Mapping[str, Any]) -> Iterator[None]:
    """Errors of a call with what to do about them on the command line."""
    from recsys.client import InvalidArgument, StoreUnavailable, Unavailable

    try:
        yield
    except StoreUnavailable:
        raise
    except Unavailable as error:
        if "closed the connection at once" in error.message or not any(words in error.message for words in _NOBODY):
            raise
        message = f"no server answers at {address}: start one with `recsys serve`, or see --address"
        nobody = Unavailable(error.code, message)
        nobody.args = (message,)  # what is printed: the code's name says nothing more
        raise nobody from error
    except InvalidArgument as error:
        given: Mapping[str, Any] = asked.get("features", {})
        several = [name for name, value in given.items() if isinstance(value, list)]
        name = next((n for n in several if f"{n!r}: {len(given[n])} values" in error.message), None)
        if name is None:
            raise
        whole = ", ".join(map(str, given[name]))
        advice = f"quotes keep a comma together: --feature '{name}=\"{whole}\"'"
        raise InvalidArgument(error.code, f"{error.message}; {advice}") from error


def feature_values(given: Sequence[str]) -> dict[str, Any]:
    """Parse ``--feature``: name -> a value, several, or None for a missing one.

    >>> feature_values(["daytime=morning", "hour=7", "price=9.5", 'zip="10115"', "city="])
    {'daytime': 'morning', 'hour': 7, 'price': 9.5, 'zip': '10115', 'city': None}
    >>> feature_values(["tags=new,red", "tags=7", 'name="a,b"'])
    {'tags': ['new', 'red', '7'], 'name': 'a,b'}

    Raises:
        ConfigError: there is no ``=``, or a quote has no end.
    """
    named: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise ConfigError(f"--feature {text!r}: expected NAME=VALUE, for example daytime=morning")
        named.setdefault(name.strip(), []).extend(_parts(f"--feature {text!r}", value))
    return {name: _values(parts) for name, parts in named.items()}


def filter_of(tests: Sequence[str]) -> Where | None:
    """Parse ``--filter``: a filter all of whose tests hold; None for none.

    >>> print(filter_of(["category=shoes,boots", "price<=50", "brand!='007'", "in_stock"]))
    category in ['shoes', 'boots'] and price <= 50 and brand not in ['007'] and in_stock is set

    Raises:
        ConfigError: a test is none.
    """
    from recsys.client import above, below, where, without

    if not tests:
        return None
    made = []
    for text in tests:
        where_ = f"--filter {text!r}"
        match = re.fullmatch(r"\s*(!?)([^=!<>]+?)\s*(?:(!=|<=|>=|=|<|>)(.*))?\s*", text, re.DOTALL)
        if match is None or (match[1] and match[3]):
            raise ConfigError(f"{where_}: expected a test, for example category=shoes,boots or price<=50 or in_stock")
        _, name, compared, value = match.groups()
        if compared is None:
            made.append(where(**{name: not match[1]}))
        elif compared in ("=", "!="):
            values = _values(_parts(where_, value))
            listed = values if isinstance(values, list) else [values]
            if None in listed:
                raise ConfigError(f"{where_}: nothing is after {compared}; expected values with commas between")
            made.append(where(**{name: listed if compared == "=" else without(*listed)}))
        else:
            number = _number(value.strip())
            if isinstance(number, str):
                raise ConfigError(f"{where_}: {value.strip()!r} is no number")
            ranges = {"<": below(number), ">": above(number), "<=": (None, number), ">=": (number, None)}
            made.append(where(**{name: ranges[compared]}))
    return where(*made)


def _outcome(best: Any) -> dict[str, Any]:
    """The outcome of the filter, for the JSON; nothing without one."""
    if best.filter is None:
        return {}
    of = best.filter
    told = {"passed": of.passed, "reason": of.reason, "detail": of.detail, "unknown_values": list(of.unknown_values)}
    return {"filter": told | {"age_ms": of.age_ms}}


def _parts(where: str, text: str) -> list[str]:
    """The texts between commas, quotes included; a comma in quotes is a part of a value."""
    parts, rest = [], text.strip()
    while rest:
        match = re.match(r"""\s*("[^"]*"|'[^']*'|[^,"'][^,]*|(?=,))\s*(?:,|$)""", rest)
        if match is None:
            raise ConfigError(f"{where}: a quote without its end, or text behind it")
        parts.append(match[1].strip())
        rest = rest[match.end() :]
    return parts


def _values(parts: Sequence[str]) -> Any:
    """One value, or a list: numbers if all look like numbers and none is quoted, otherwise texts."""
    if not any(parts):
        return None
    read = [_number(part) for part in parts]
    if any(isinstance(value, str) for value in read):
        read = [part[1:-1] if part[:1] in ("'", '"') else part for part in parts]
    return read[0] if len(read) == 1 else read


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text


def item_ids(given: Sequence[str], text_ids: bool) -> Any:
    """Parse ids with commas or line ends between: integers if all are, otherwise strings; quotes make one a string.

    >>> item_ids(["1, 2", "3"], False), item_ids(["1,b"], False), item_ids(["1"], True), item_ids(['"1"'], False)
    ([1, 2, 3], ['1', 'b'], ['1'], ['1'])
    """
    texts = [text.strip() for part in given for text in part.replace("\n", ",").split(",") if text.strip()]
    ids = [raw_id(text, text_ids) for text in texts]
    texts = [each if isinstance(each, str) else text for each, text in zip(ids, texts, strict=True)]
    return texts if any(isinstance(each, str) for each in ids) else ids


def raw_id(text: str, text_ids: bool) -> int | str:
    """Parse an id: an integer, unless it cannot be one, is in quotes, or ids are texts."""
    if text_ids:
        return text
    if len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    try:
        return int(text)
    except ValueError:
        return text


def milliseconds(text: str | None) -> int | None:
    """The moment that ``--time`` names, in milliseconds since 1970.

    Raises:
        ConfigError: it is neither ISO 8601 nor a whole number.
    """
    if text is None or re.fullmatch(r"[+-]?\d+", text):
        return None if text is None else int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--time is {text!r}: expected a time like 2026-01-31T12:00 or 2026-01-31T12:00+01:00, or milliseconds "
            "since 1970"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


def _found(best: Any) -> list[tuple[Any, float]]:
    return list(zip(best.items.tolist(), best.scores.tolist(), strict=True))


def _who(best: Any) -> str:
    """Text on who answered: model, version and, if the server names it, the release."""
    return f"{best.model} {best.model_version}" + (f", release {best.release}" if best.release else "")


def _print(
    best: Any,
    rows: Sequence[tuple[Any, float]],
    facts: dict[str, Any],
    summary: str,
    *,
    number: str = "rank",
    listed: str = "items",
    as_json: bool,
) -> None:
    """The list on standard output; who answered, and what was missing for it, beside it or in the JSON."""
    reasons = [DEGRADED.get(name, name) for name in best.degraded]
    if as_json:
        facts |= {"degraded": list(best.degraded), "degraded_because": reasons}
        facts |= {"timings_us": best.timings_us} if best.timings_us else {}
        print(json.dumps({**facts, listed: [{"item": item, "score": score} for item, score in rows]}))
        return
    table = Table(number, "item", "score", box=None)
    for at, (item, score) in enumerate(rows, start=1):
        table.add_row(str(at), Text(str(item)), f"{score:.4f}")  # Text: a name is no markup
    output.print(table)
    if best.timings_us:
        notes.print(", ".join(f"{stage} {us} us" for stage, us in best.timings_us.items() if us))
    notes.print(f"{summary}; {'degraded' if reasons else 'not degraded'}", markup=False, soft_wrap=True)
    if (of := facts.get("filter")) is not None:
        why = f": {of['detail']}" if of["detail"] else ""
        unknown = f"; no item has had {', '.join(of['unknown_values'])}" if of["unknown_values"] and not why else ""
        notes.print(f"{of['passed']:,} items pass the filter{why}{unknown}", markup=False, soft_wrap=True)
    for reason in reasons:
        notes.print(f"degraded: {reason}", markup=False, soft_wrap=True)
