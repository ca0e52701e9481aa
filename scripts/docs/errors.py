"""The page of errors: what each kind means, its gRPC status, its exit code, and what the Python client raises."""

from __future__ import annotations

import inspect
import re

from docs.table import generated, table
from recsys import errors
from recsys.cli import exit_codes
from recsys.client import types
from recsys.errors import RecsysError
from recsys.serving.rpc.statuses import STATUS_CODES


def errors_page() -> str:
    """The text of ``docs/reference/errors.md``."""
    lines = generated(
        "Errors",
        "Kinds of errors: what each means, and how callers of the server, of the Python client and of the command line",
        "see it. Messages say what arrived and what is allowed. What to do about each is in [the runbook]"
        "(../operate/runbook.md#what-a-caller-sees), all exit codes are in [command line](cli.md#exit-codes).",
    )
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, RecsysError)]
    lines += ["## Of the package", "", "In `recsys.errors`; a kind is also the one in parentheses.", ""]
    lines += table(
        ("error", "meaning", "gRPC status", "exit code"),
        [(_name(kind), _meaning(kind), _status(kind), _exit_code(kind)) for kind in kinds],
    )
    lines += [
        "Any other error is a defect of the server: its status is `INTERNAL`, with an id that the log has.",
        "",
        "## Of the Python client",
        "",
        "In `recsys.client`.",
        "",
    ]
    raised = [kind for kind in vars(types).values() if inspect.isclass(kind) and issubclass(kind, types.RpcError)]
    lines += table(
        ("error", "meaning", "exit code"),
        [(_name(kind), _meaning(kind), _exit_code(kind)) for kind in raised],
    )
    return "\n".join(lines).rstrip() + "\n"


def _name(kind: type[BaseException]) -> str:
    bases = [base.__name__ for base in kind.__bases__ if base is not Exception and base is not RecsysError]
    return f"`{kind.__name__}`" + (f" ({', '.join(f'`{base}`' for base in bases)})" if bases else "")


def _meaning(kind: type[BaseException]) -> str:
    text = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return re.sub(r":\w+:(`)", r"\1", text).replace("``", "`")


def _status(kind: type[Exception]) -> str:
    if kind is RecsysError:
        return ""
    return next((f"`{code.name}`" for base, code in STATUS_CODES.items() if issubclass(kind, base)), "")


def _exit_code(kind: type[BaseException]) -> str:
    return next((str(code) for base, code in exit_codes().items() if issubclass(kind, base)), "")
