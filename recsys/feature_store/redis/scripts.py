"""The Lua programs that change a history or counts inside Redis, each atomic (``lua/``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from recsys.feature_store.redis.link.protocol import Command

_MARK = "---- history.lua\n"


@dataclass(frozen=True, slots=True)
class Script:
    """One program: its text, and the name under which Redis remembers it."""

    text: bytes
    sha: str

    def call(self, keys: tuple[bytes, ...], arguments: Command) -> Command:
        """The command that runs it, where Redis knows it."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *arguments)

    def call_with_text(self, call: Command) -> Command:
        """The same command for a Redis that does not know it yet."""
        return (b"EVAL", self.text, *call[2:])


def _script(*names: str) -> Script:
    folder = resources.files(__package__).joinpath("lua")
    text = "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
    text = text.replace(_MARK, folder.joinpath("history.lua").read_text(encoding="utf-8"))
    return Script(text.encode(), hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND = _script("append", "history", "merge")
REPLACE = _script("replace")
UPGRADE = _script("upgrade")
COUNT = _script("count")
