"""The page of the command line: every command with its arguments and options, and the exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from docs.table import generated, linked, table
from recsys.cli import EXIT_CODES, app


def commands_page() -> str:
    """The text of ``docs/reference/cli.md``."""
    root = typer.main.get_command(app)
    lines = generated(
        "Command line",
        "Every command of `recsys`, as `--help` tells it. Results go to standard output, progress and errors to",
        "standard error; an error is one line.",
    )
    lines += table(
        ("command", "what it does"),
        [
            (f"[`{name}`](#{name.replace(' ', '-')})", _plain(_first(command.help)))
            for name, command in _walk("recsys", root)
        ],
    )
    lines += ["## Exit codes", ""]
    lines += table(("code", "meaning"), [(str(code), what) for code, what in EXIT_CODES.items()])
    for name, command in _walk("recsys", root):
        lines += _section(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _walk(name: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Commands below a group, those of sub-groups in place of the sub-group."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{name} {word}", command
            yield from _walk(f"{name} {word}", command)
        elif not command.hidden:
            yield f"{name} {word}", command


def _section(name: str, command: Any) -> list[str]:
    context = command.context_class(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", f"    {usage}", "", *_prose(command.help), ""]
    parameters = [p for p in command.params if not p.hidden]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option"]
    for kind, found in (("argument", arguments), ("option", options)):
        if found:
            lines += table((kind, "meaning"), [_row(parameter, context) for parameter in found])
    return lines


def _row(parameter: Any, context: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name}`", _plain(parameter.help or "")
    shown, meaning = parameter.get_help_record(context)
    return f"`{shown}`", _plain(meaning)


def _first(text: str | None) -> str:
    """The first sentence of a help text."""
    return re.split(r"(?<=\.)\s", " ".join((text or "").split("\n\n")[0].split()), maxsplit=1)[0]


def _prose(text: str | None) -> list[str]:
    """A help text, with what may be taken for a tag or a link's end made plain."""
    return [_plain(line) for line in (text or "").replace("\b\n", "").strip().splitlines()]


def _plain(text: str) -> str:
    """Text without HTML: ``<`` outside code."""
    parts = re.split(r"(`[^`]*`)", text)
    return linked("".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts)))
