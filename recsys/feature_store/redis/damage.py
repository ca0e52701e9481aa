"""DamageLog: keys whose bytes are not ours, each named once in the log, however often it is read."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from recsys.errors import StoreFormatError
from recsys.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)

_REMEMBERED = 1_024
_SHOWN_CHARACTERS = 500


class DamageLog:
    """A log of damaged keys. It remembers the last 1,024 of them, and shows at most 20 new ones in 10 s: the damage of
    a whole store is one fault, not millions. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._limit = RateLimitedLog(_log)
        self._turn = 0

    def found(self, part: str, error: StoreFormatError) -> None:
        """Log a warning that names the key, the first time that it is found."""
        text = f"{part}: {error}"[:_SHOWN_CHARACTERS]
        with self._lock:
            known = text in self._known
            self._known[text] = None
            self._known.move_to_end(text)
            if known:
                return
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            self._turn = (self._turn + 1) % 20
            turn = self._turn
        self._limit.warning(turn, "damaged %s", text)
