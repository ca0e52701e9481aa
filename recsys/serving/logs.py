"""Logs of a server's processes: text lines, or one JSON object a line, on standard error.

Every process of a server calls :func:`configure_logs` once: the supervisor, its workers, those that check releases.
``console.say`` writes through :func:`say_line`.
"""

from __future__ import annotations

import datetime
import faulthandler
import json
import logging
import sys
import tempfile
import threading
import traceback
from types import TracebackType
from typing import Any, Literal, TextIO

from recsys.serving.current_call import running_call

LogFormat = Literal["text", "json"]

_TEXT = "%(levelname)s %(name)s: %(message)s"
_SAYING = "recsys"
_config: dict[str, Any] = {"json": False, "worker": None}


class JsonFormatter(logging.Formatter):
    """Make a record a JSON object of one line.

    Fields: ``time`` (UTC, ISO 8601, microseconds), ``level``, ``logger``, ``message``; ``worker``, ``request_id``,
    ``method`` and ``trace_id`` where there are any; ``exception`` and ``traceback`` of an error; ``stacks`` of all
    threads (:func:`log_stacks`).

    Args:
        worker: number of the process among a server's workers, from 1; None for another.
    """

    def __init__(self, *, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, without its end."""
        fields = _fields(record.created, record.levelname, record.name, record.getMessage(), self._worker)
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            fields["exception"] = f"{kind.__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            fields["stack"] = record.stack_info
        if stacks := getattr(record, "stacks", ""):
            fields["stacks"] = stacks
        return _line(fields)


class TextFormatter(logging.Formatter):
    """Make a record a line of text, with the request id of the call that it is about at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the text; an error's traceback follows on lines of its own."""
        text = super().format(record)
        call = running_call()
        if call is None or not call.request_id:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} [request {call.request_id}]{newline}{rest}"


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Writes to what is standard error at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Standard error."""
        return sys.stderr


def configure_logs(log_format: LogFormat, *, worker: int | None = None) -> None:
    """Set up the root logger of this process; what was set up before is replaced.

    Errors that end a thread or the process, and Python's warnings, are log records, too, if the lines are JSON.

    Args:
        log_format: of the lines.
        worker: number of the process among a server's workers, from 1; None for another.
    """
    _config.update(json=log_format == "json", worker=worker)
    handler = _StderrHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter(worker=worker))
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda ended: _log_uncaught(
            ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback
        )
    else:
        handler.setFormatter(TextFormatter(_TEXT if worker is None else f"worker {worker}: {_TEXT}"))
    root = logging.getLogger()
    for before in list(root.handlers):
        # Only those of standard error: others of a program that embeds a server stay.
        if type(before) in (logging.StreamHandler, _StderrHandler):
            root.removeHandler(before)
    root.addHandler(handler)


def say_line(text: str, *, level: str = "INFO") -> str:
    """The line that says something to who started the server: ``recsys: TEXT``, or a JSON object.

    >>> say_line("stopped")
    'recsys: stopped'
    """
    if not _config["json"]:
        return f"recsys: {text}"
    now_s = datetime.datetime.now(tz=datetime.UTC).timestamp()
    return _line(_fields(now_s, level, _SAYING, text, _config["worker"]))


def log_stacks(log: logging.Logger, message: str, *arguments: object) -> None:
    """Log an error and the stacks of all threads: as a field of its line if lines are JSON, else as text after it."""
    if not json_lines():
        log.error(message, *arguments)
        faulthandler.dump_traceback(file=2)
        return
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file=file)
            file.seek(0)
            stacks = file.read().decode(errors="replace")
    except OSError as error:  # a full disk
        stacks = f"not known: {error}"
    log.error(message, *arguments, extra={"stacks": stacks})


def json_lines() -> bool:
    """True if this process's logs are JSON."""
    return bool(_config["json"])


def _fields(created_s: float, level: str, logger: str, message: str, worker: int | None) -> dict[str, Any]:
    time = datetime.datetime.fromtimestamp(created_s, tz=datetime.UTC).isoformat(timespec="microseconds")
    fields: dict[str, Any] = {"time": time.replace("+00:00", "Z"), "level": level, "logger": logger, "message": message}
    if worker is not None:
        fields["worker"] = worker
    call = running_call()
    if call is not None:
        fields["request_id"], fields["method"] = call.request_id, call.method
        if call.trace_id:
            fields["trace_id"] = call.trace_id
    return fields


def _line(fields: dict[str, Any]) -> str:
    # A lone surrogate, from bytes that are no UTF-8, must not end the log: ensure_ascii writes it as an escape.
    return json.dumps(fields, ensure_ascii=True, default=str)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    logging.getLogger("recsys.serving").critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))
