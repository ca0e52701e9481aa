"""Options, arguments and output of requests to a running server."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import notes, output
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.client import Client, Tls, Where

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
FallbackOption = Annotated[
    str,
    typer.Option(
        "--fallback",
        help="Of a user whom the retrieval model does not know, and who has no segment: popularity, or trending, what "
        "has most events lately. Default: popularity.",
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


@contextmanager
def asking(address: str, asked: Mapping[str, Any], *, tls: Tls | None, timeout_s: float) -> Iterator[Client]:
    """A client that sends the token of the environment; errors of its calls say what to do on the command line.

    Args:
        address: of the server.
        asked: what the call is given, for advice on ``features``.
        tls, timeout_s: of the client.
    """
    from recsys.client import Client, InvalidArgument, StoreUnavailable, Unavailable
    from recsys.client.token import token_options

    try:
        with Client(address, timeout_s=timeout_s, tls=tls, **token_options(os.environ)) as client:
            yield client
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


def outcome(best: Any) -> dict[str, Any]:
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


def listed_items(best: Any) -> list[tuple[Any, float]]:
    return list(zip(best.items.tolist(), best.scores.tolist(), strict=True))


def who(best: Any) -> str:
    """Text on who answered: model, version and, if the server names it, the release."""
    return f"{best.model} {best.model_version}" + (f", release {best.release}" if best.release else "")


def print_list(
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
