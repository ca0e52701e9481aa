"""Options that several commands share, the FeatureSet or table that one names, and where commands print."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape

from recsys.data.sources.raw_log import LOGS, MOVIELENS_1M
from recsys.errors import ConfigError, InvalidInputError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import layout_fingerprint
from recsys.features.number_transform import NumberTransform
from recsys.files import read_text
from recsys.masking import has_secret
from recsys.serving.settings import Settings
from recsys.serving.settings.secret_file import read_secret

if TYPE_CHECKING:
    from recsys.client import Tls
    from recsys.data.log.event_table import EventTable
    from recsys.features.values import TimeUnit
    from recsys.rows.contract import ReadOptions

notes = Console(stderr=True)
output = Console()

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder or zip of the raw data: an original ml-1m, or a folder that holds one. Default: "
        "RECSYS_DATA_DIR, then ../shared/data, then a download.",
    ),
]
WorkOption = Annotated[Path, typer.Option("--work-dir", help="Where downloads and prepared data are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
URL_FILE = "REDIS_URL_FILE"


def warn_of_secret(url: str) -> None:
    """Warn of a URL that was given as an option, if it holds a secret."""
    if has_secret(url):
        notes.print(
            "[yellow]warning:[/yellow] --redis-url holds a password, which `ps` shows to everybody here: set "
            f"REDIS_URL, or {URL_FILE}, a file that holds it",
            highlight=False,
            soft_wrap=True,
        )


def redis_url_given(context: typer.Context, given: typer.CallbackParam, url: str | None) -> str | None:
    """Take the URL of a Redis from its option or from the file in REDIS_URL_FILE; warn if ``ps`` shows a secret.

    Raises:
        ConfigError: the file cannot be read, or a URL is set beside it.
    """
    source = context.get_parameter_source(given.name or "")
    on_line = source is not None and source.name == "COMMANDLINE"
    if on_line and url:
        warn_of_secret(url)
    file = os.environ.get(URL_FILE, "")
    if not file or on_line:
        return url
    if url:
        raise ConfigError(f"REDIS_URL is set, and {URL_FILE} is {file!r}; allowed: one of them")
    return read_secret(Path(file), what=URL_FILE)


RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        callback=redis_url_given,
        help="The feature store's Redis: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://; "
        "docs/operate/redis.md. Default: a private one in --redis-dir.",
    ),
]
RedisDirOption = Annotated[
    Path, typer.Option("--redis-dir", envvar="RECSYS_REDIS_DIR", help="Folder of the private Redis.")
]
FEATURES_HELP = "A FeatureSet: a JSON file (FeatureSet.to_json), a bundle, an event table's folder, or a data set."
FeaturesOption = Annotated[str, typer.Option("--features", help=FEATURES_HELP)]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, for example train.epochs=3 model.softmax=true.")
]
TimestampOption = Annotated[str, typer.Option("--timestamp", help="Column of the time.")]
TimeUnitOption = Annotated[
    str, typer.Option("--time-unit", help="Unit of times that are numbers: s, ms, us or ns since 1970.")
]
IgnoreOption = Annotated[list[str] | None, typer.Option("--ignore", help="Name of a column to leave out.")]
IgnoreUnknownOption = Annotated[
    bool, typer.Option("--ignore-unknown", help="Leave out every column that nothing declares.")
]
CompleteOption = Annotated[
    bool,
    typer.Option(
        "--complete", help="Files are complete: read a last line without an end, which is otherwise left for later."
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="End at the first row that does not fit, instead of setting it aside.")
]
FutureToleranceOption = Annotated[
    int, typer.Option(help="Seconds that an event's time may be in the future (clock skew).", min=0)
]
TlsOption = Annotated[
    bool,
    typer.Option(
        "--tls", envvar="RECSYS_CLIENT_TLS", help="Speak TLS, and trust the public CAs unless --tls-ca names others."
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="RECSYS_CLIENT_TLS_CA",
        help="Speak TLS, and trust the CAs in this file (PEM) to have signed the server's certificate.",
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-certificate",
        envvar="RECSYS_CLIENT_TLS_CERTIFICATE",
        help="Speak TLS, and show the certificate in this file (PEM) to a server that asks for one.",
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-key", envvar="RECSYS_CLIENT_TLS_KEY", help="File of the private key of --tls-certificate (PEM)."
    ),
]
ServerNameOption = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar="RECSYS_CLIENT_TLS_SERVER_NAME",
        help="Name in the server's certificate, if it is not the host of --address.",
    ),
]
WORK_DIR = Path("runs")
REDIS_DIR = Settings.redis_dir
ADDRESS = f"{Settings.host}:{Settings.port}"
"""Of a server with its default settings."""


def tls_of(
    wanted: bool, ca: Path | None, certificate: Path | None, key: Path | None, server_name: str | None
) -> Tls | None:
    """The TLS that the options of a command ask for; None: in the clear.

    Raises:
        InvalidInputError: a certificate without its key, or the other way.
    """
    from recsys.client import Tls

    if not wanted and ca is None and certificate is None and key is None and server_name is None:
        return None
    return Tls(ca=ca, certificate=certificate, key=key, server_name=server_name)


def print_lines(lines: Iterable[str]) -> None:
    """Sentences below a table, as they are."""
    for line in lines:
        output.print(line, markup=False, highlight=False, soft_wrap=True)


def print_notes(console: Console, lines: Iterable[str]) -> None:
    """Notes of a run on its settings, each on a line."""
    for line in lines:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)


def where_data_is(data: Path | None, work_dir: Path) -> str:
    """The options that a following command needs to find the same data."""
    given = "" if data is None else f" --data {data}"
    return given if work_dir == WORK_DIR else f"{given} --work-dir {work_dir}"


def time_unit_of(text: str) -> TimeUnit:
    """The unit of an option.

    Raises:
        ConfigError: it is none.
    """
    from recsys.features.values import TIME_UNITS

    if text not in TIME_UNITS:
        raise ConfigError(f"--time-unit {text!r}: {nearest(text, TIME_UNITS)}")
    return cast("TimeUnit", text)


def show_warnings(warnings: Iterable[str], console: Console = notes) -> None:
    """Print a line for each, on standard error."""
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)


def load_features(text: str) -> FeatureSet:
    """The FeatureSet that ``--features`` names: of a file, a folder, or a data set.

    Raises:
        ConfigError: it is none of these.
        InvalidInputError, BundleError, DataFileError: it is one, but cannot be read.
    """
    path = Path(text)
    if path.is_file():
        return read_features(path)
    if (path / "manifest.json").is_file():
        from recsys.bundle import read_manifest

        return read_manifest(path).feature_set
    if (path / "features.json").is_file() and (path / "config.json").is_file():
        return load_features(str(path / "features.json"))
    if path.is_dir():
        return open_table(path).features
    if text in LOGS:
        return MOVIELENS_1M  # the synthetic log has the same
    raise ConfigError(
        f"features {text!r}: no such file or folder; allowed: a JSON file, the folder of a bundle, of a run or of a "
        f"prepared log, {' or '.join(LOGS)}"
    )


def read_features(path: Path) -> FeatureSet:
    """The FeatureSet in a JSON file.

    Raises:
        InvalidInputError: it is none; the message begins with the file.
        OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        return FeatureSet.from_json(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def prepared_reading(text: str) -> tuple[ReadOptions, tuple[str, ...]]:
    """Options that the log in the folder which ``--features`` names was read with; the usual ones for anything else.

    Beside them the column of its label rule, to be left out, where it is no other field: the store keeps no labels.

    Raises:
        DataFileError: it cannot be read.
    """
    from recsys.data.log.event_table import read_options
    from recsys.rows.contract import LABEL, ReadOptions, event_rows

    path = Path(text)
    other = ("manifest.json", "config.json")  # a bundle's, a run's
    if not path.is_dir() or any((path / name).is_file() for name in other):
        return ReadOptions(), ()
    table = open_table(path)
    options, rule, _ = read_options(table)
    if rule is None or table.features.history is None:
        return options, ()
    fields = {field.column for field in event_rows(table.features, options).fields if field.name != LABEL}
    return options, () if rule.column in fields else (rule.column,)


def load_number_transforms(text: str) -> dict[str, NumberTransform]:
    """Transforms of numeric features of the model in a folder, by input name; empty if it is no bundle and no run.

    Raises:
        BundleError, DataFileError: it is one, but cannot be read.
    """
    path = Path(text)
    if (path / "manifest.json").is_file():
        from recsys.bundle import read_manifest

        return dict(read_manifest(path).numbers)
    if (path / "config.json").is_file():
        from recsys.training.run.folder import NUMBERS, load_numbers

        return load_numbers(path / NUMBERS)
    return {}


def open_table(path: Path) -> EventTable:
    """The event table in a folder, be it of `recsys prepare` or the table's own.

    Raises:
        ConfigError: there is none.
        DataFileError: it cannot be read.
    """
    from recsys.data.log.event_table import open_event_table

    for folder in (path / "events", path):
        if (folder / "meta.json").is_file():
            return open_event_table(folder)
    raise ConfigError(f"{path}: expected a bundle (manifest.json) or a prepared log (events/) in this folder")


def load_table(text: str, *, work_dir: Path, data: Path | None = None) -> EventTable:
    """The event table in a folder, or of a data set.

    Raises:
        ConfigError: there is neither.
        DataFileError: it cannot be read.
    """
    from recsys.data.datasets import load_dataset

    path = Path(text)
    if path.is_dir():
        return open_table(path)
    if path.suffix or "/" in text:
        raise ConfigError(f"{text}: no such file or folder")
    return load_dataset(text, work_dir=work_dir, path=data).dataset.table


def with_features(table: EventTable, features: FeatureSet) -> EventTable:
    """The same table for a FeatureSet that stores the same: another name, other sizes of the history.

    Raises:
        ConfigError: they declare other users, items or events.
    """
    parts: dict[str, tuple[object, object]] = {
        "user id": (features.user_id, table.features.user_id),
        "item id": (features.item_id, table.features.item_id),
        "users": (features.user, table.features.user),
        "items": (features.item, table.features.item),
    }
    different = [part for part, (one, other) in parts.items() if one != other]
    if not different and layout_fingerprint(features) != layout_fingerprint(table.features):
        different = ["events"]
    if different:
        raise ConfigError(
            f"--features {features.name!r} declares other {different[0]} than the table ({table.features.name!r}); "
            "prepare a table with this FeatureSet"
        )
    return dataclasses.replace(table, features=features)
