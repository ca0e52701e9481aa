"""Calls of a server written down as JSON, made again, and what they leave in Redis.

``golden/compatibility/make.py`` runs this with an older version of the package: it imports little of it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import redis

import recsys.operators
from recsys.client import Client

NOW_MS = 1_760_000_000_000
"""The clock of every replay: it stands still."""


def replay(client: Client, calls: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Make the calls one after the other; the answers as JSON values, every float32 exactly."""
    return [_plain(getattr(client, call["method"])(**call["arguments"])) for call in calls]


def stored(url: str) -> dict[str, Any]:
    """Everything in a Redis: key -> value, bytes in base64."""
    found: dict[str, Any] = {}
    with redis.Redis.from_url(url) as admin:
        for key in sorted(admin.keys()):
            kind = admin.type(key)
            if kind == b"string":
                value: Any = _text(admin.get(key))
            elif kind == b"list":
                value = [_text(part) for part in admin.lrange(key, 0, -1)]
            else:
                assert kind == b"hash", kind
                value = {_text(name): _text(part) for name, part in sorted(admin.hgetall(key).items())}
            found[key.decode()] = value
    return found


def arithmetic() -> dict[str, str]:
    """List on which the last bits of a score depend: processor, ONNX Runtime, torch, operators and their compiler."""
    cpu = [
        line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith(("model name", "flags", "Features"))
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "wide": " ".join(sorted(flag for flag in set(" ".join(cpu[1:2]).split()) if flag.startswith(("avx", "amx")))),
        "onnxruntime": version("onnxruntime"),
        "torch": version("torch"),
        "operators": _operators(),
    }


def _operators() -> str:
    """Sources of our operators by their hash, and what compiled them; empty without a compiled library.

    Not the library's own hash: it holds where it was compiled.
    """
    folder = Path(recsys.operators.__file__).parent
    libraries = sorted(folder.glob("_library*.so"))
    if not libraries:
        return ""
    sources = b"".join(path.read_bytes() for path in sorted([*folder.glob("*.cpp"), *folder.glob("*.h")]))
    compilers = set(re.findall(rb"GCC: \([^\0]+|clang version [^\0]+", libraries[0].read_bytes()))
    return f"{hashlib.sha256(sources).hexdigest()} {b', '.join(sorted(compilers)).decode()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()  # a float32 becomes the float64 of the same value, which JSON keeps
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
