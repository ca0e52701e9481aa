"""A run's configuration as JSON, and dotted overrides of it (``train.epochs=2``), driven by its annotations.

A configuration is a frozen dataclass of sections, which are frozen dataclasses of settings. Two annotations refer to a
registry, so that what is added there can be asked for: :class:`NameIn` and :class:`KindOf`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from recsys.embeddings import WIDTH_UNIT
from recsys.errors import ConfigError, nearest


class RunSettings(Protocol):
    """A run's configuration: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    described: ClassVar[str]
    """A noun for it, in errors."""

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        ...


class Kind(Protocol):
    """An entry of a registry of models."""

    @property
    def config(self) -> type[Any]:
        """The dataclass of its settings, all with defaults."""
        ...


@dataclass(frozen=True, eq=False)
class NameIn:
    """Annotation of a setting that takes one of a registry's names: ``Annotated[str, NameIn(names)]``."""

    names: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class KindOf:
    """Annotation of a section that is one of several dataclasses, by its setting ``kind``."""

    kinds: Mapping[str, Kind]


Config = TypeVar("Config", bound=RunSettings)


def to_json(config: RunSettings) -> str:
    """Indented JSON of every setting."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(kind: type[Config], text: str) -> Config:
    """Inverse of :func:`to_json`.

    Raises:
        ConfigError: malformed, or a setting is unknown.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not {kind.described}: {error}") from error
    try:
        return typing.cast(Config, _build(kind, values, prefix=""))
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"not {kind.described}: {error}") from error


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Apply ``path=value`` assignments.

    >>> from recsys.training.config import RunConfig
    >>> config = override(RunConfig(recipe="r"), ["train.epochs=3", "model.head=[64,32]", "tables.dims.movie_id=32"])
    >>> config.train.epochs, config.model.head, config.tables.dims["movie_id"]
    (3, (64, 32), 32)

    Raises:
        ConfigError: no such setting (names the nearest), or a value of the wrong type.
    """
    values = dataclasses.asdict(config)
    kinds = {f"{name}.kind": of.kinds for name, of in _sections_of_kinds(type(config))}
    # Another kind of model begins with that kind's defaults, whatever the order of the assignments.
    for assignment in sorted(assignments, key=lambda a: a.partition("=")[0] not in kinds):
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"override {assignment!r}: expected path=value, for example train.epochs=3")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if path in kinds:
            values[path.partition(".")[0]] = dataclasses.asdict(_kind(path, value, kinds[path])())
        else:
            _assign(values, path, value)
    return typing.cast(Config, _build(type(config), values, prefix=""))


def setting_paths(config: RunSettings) -> dict[str, Any]:
    """Every setting an override may name, with its value."""
    return _paths(dataclasses.asdict(config))


def differences(held: RunSettings, asked: RunSettings) -> str:
    """The settings that differ between the configuration of a run and the one asked for, with both values.

    >>> from recsys.training.config import RunConfig
    >>> differences(RunConfig(recipe="r"), override(RunConfig(recipe="r"), ["train.epochs=3", "train.seed=1"]))
    'train.epochs was 2, is 3; train.seed was 2026, is 1'
    """
    told = []
    was, now = ({"recipe": of.recipe, **setting_paths(of)} for of in (held, asked))
    other_kind = was["model.kind"] != now["model.kind"]  # and so other settings of it
    for path in (*was, *(path for path in now if path not in was)):
        if other_kind and path.startswith("model.") and path != "model.kind":
            continue
        if was.get(path) != now.get(path):
            told.append(f"{path} was {_told(was, path)}, is {_told(now, path)}")
    return "; ".join(told)


def _told(values: Mapping[str, Any], path: str) -> str:
    """A setting as an override writes it."""
    return json.dumps(values[path]) if path in values else "not a setting"


def check_value(config: RunSettings, path: str, value: float, *, least: float, below: float = math.inf) -> None:
    """Refuse a setting out of bounds.

    Raises:
        ConfigError: it is.
    """
    if not least <= value < below:  # NaN is refused too
        most = "finite" if below == math.inf else f"below {below}"
        raise ConfigError(f"recipe {config.recipe!r}: {path} is {value}; allowed: {least} or more, {most}")


def check_bounds(config: RunSettings, least: Mapping[str, float], *, below: Mapping[str, float] | None = None) -> None:
    """Refuse settings out of bounds: every value of a list, every value by name. A model may lack a setting.

    Args:
        config: the run.
        least: path -> the smallest value.
        below: path -> what it must be below; default: finite.

    Raises:
        ConfigError: one is.
    """
    for path, bound in least.items():
        section, _, name = path.partition(".")
        values = getattr(config, section)
        if section == "model" and name not in {field.name for field in dataclasses.fields(values)}:
            continue
        for at, value in _numbers(path, getattr(values, name)):
            check_value(config, at, value, least=bound, below=(below or {}).get(path, math.inf))


def check_width(config: RunSettings, path: str, width: int) -> None:
    """Refuse the width of a table that no kernel reads.

    Raises:
        ConfigError: it is no multiple of ``WIDTH_UNIT``.
    """
    if width < 1 or width % WIDTH_UNIT:
        raise ConfigError(f"recipe {config.recipe!r}: {path} is {width}; allowed: a multiple of {WIDTH_UNIT}")


def _numbers(path: str, value: Any) -> list[tuple[str, float]]:
    """A setting's number, or all of its numbers, and the path of each."""
    if isinstance(value, Mapping):
        return [(f"{path}.{name}", each) for name, each in value.items()]
    return [(path, each) for each in value] if isinstance(value, tuple) else [(path, value)]


def _paths(values: Mapping[str, Any]) -> dict[str, Any]:
    sections = {section: of for section, of in values.items() if isinstance(of, dict)}
    return {f"{section}.{name}": value for section, of in sections.items() for name, value in of.items()}


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    paths = _paths(values)
    by_table = isinstance(paths.get(path.rpartition(".")[0]), dict)
    if path not in paths and not by_table:
        raise ConfigError(f"unknown setting {path!r}: {nearest(path, paths)}")
    *sections, name = path.split(".")
    for section in sections:
        values = values[section]
    values[name] = value


def _sections_of_kinds(kind: Any) -> Iterator[tuple[str, KindOf]]:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for annotation in getattr(hint, "__metadata__", ()):
            if isinstance(annotation, KindOf):
                yield name, annotation


def _kind(path: str, name: Any, kinds: Mapping[str, Kind]) -> type[Any]:
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError(f"{path} is {name!r}: {nearest(str(name), kinds)}")
    return kinds[name].config


def _build(kind: Any, values: Mapping[str, Any], *, prefix: str) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    of_kinds = dict(_sections_of_kinds(kind))
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"unknown setting {prefix + name!r}: {nearest(name, fields)}")
        section = hints[name]
        if name in of_kinds:
            default: Any = fields[name].default_factory
            section = _kind(f"{prefix}{name}.kind", value.get("kind", default().kind), of_kinds[name].kinds)
        if dataclasses.is_dataclass(section):
            arguments[name] = _build(section, value, prefix=f"{prefix}{name}.")
        else:
            arguments[name] = _convert(prefix + name, value, section)
    return kind(**arguments)


def _convert(path: str, value: Any, kind: Any) -> Any:
    """A value of JSON as one of the kind that a setting is annotated with."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated or origin is Literal:
        names = arguments if origin is Literal else tuple(arguments[1].names)
        if value not in names:
            raise ConfigError(f"{path} is {value!r}: {nearest(str(value), names)}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        repeated = arguments[-1] is Ellipsis
        if not repeated and len(value) != len(arguments):
            raise ConfigError(f"{path} is {value!r}; allowed: {len(arguments)} values")
        kinds = [arguments[0]] * len(value) if repeated else arguments
        return tuple(_convert(path, v, k) for v, k in zip(value, kinds, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {str(k): _convert(f"{path}.{k}", v, arguments[1]) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    expected = getattr(kind, "__name__", None) or str(kind)
    raise ConfigError(f"{path} is {value!r}; expected {expected}")
