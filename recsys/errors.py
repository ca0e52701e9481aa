"""The errors this package raises on purpose.

::

    RecsysError
    ├── InvalidInputError (also a ValueError)   the caller's fault: says which field, what arrived, what is allowed
    │   ├── DataFileError                       a data file is malformed: which file, which line, what was expected
    │   └── ConfigError                         unknown recipe, option or value: names the nearest valid one
    ├── NotFoundError                           an unknown model or bundle was named
    ├── BundleError                             a bundle is incomplete, altered, too new, or made for other features
    │   ├── ModelError                          ... or its model gives no numbers, or its tables were changed under it
    │   └── NotExportedError                    ... or it was exported without what a call needs: names the option
    ├── ReleaseError                            a release, or what says which is served, is missing, damaged or refused
    ├── StoreError                              the feature store could not answer
    │   ├── StoreUnavailableError               ... because it is unreachable, slow or shutting down
    │   └── StoreFormatError                    ... because the bytes under a key are not ours
    ├── AccessError                             the caller lacks the role that the call needs
    │   └── AuthenticationError                 ... or is not known: no token, or none that is good
    ├── OverloadedError                         the server has no room, or no time, for another request
    └── NoSpaceError (also an OSError)          a disk, quota or limit of file sizes has no room for what is written

The domain never mentions gRPC; ``serving/rpc/statuses.py`` holds the one table that
maps these to status codes, ``cli/__init__.py`` the one that maps them to exit codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecsysError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(RecsysError, ValueError):
    """The caller sent something that is not allowed."""


class DataFileError(InvalidInputError):
    """A data file is malformed."""


class ConfigError(InvalidInputError):
    """A recipe, option or setting is unknown or out of range."""


class NotFoundError(RecsysError):
    """A model or bundle with the given name does not exist."""


class BundleError(RecsysError):
    """A bundle is incomplete, altered, of a newer format, or made for another FeatureSet."""


class ModelError(BundleError):
    """A model that is served gave what are no numbers, or its tables were changed under it; names the release."""


class NotExportedError(BundleError):
    """A bundle that is served was exported without what the call needs; names the option that has it."""


class ReleaseError(RecsysError):
    """A release does not exist, is damaged, or is refused; or ``served.json`` is malformed."""


class StoreError(RecsysError):
    """The feature store could not answer."""


class StoreUnavailableError(StoreError):
    """The feature store is unreachable, too slow, or shutting down."""


class StoreFormatError(StoreError):
    """The bytes under a key were not written by this package, or by a newer version of it."""


class AccessError(RecsysError):
    """The caller may not do that; the message names the role that is missing."""


class AuthenticationError(AccessError):
    """The caller is not known: it sent no token or certificate, or one that is not good."""


class OverloadedError(RecsysError):
    """The server has no room, or no time, for another request; try again later.

    Attributes:
        retry_after_s: seconds after which it may have; None: it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoSpaceError(RecsysError, OSError):
    """A disk is full, or a quota or a limit of file sizes is reached; nothing half-written is left."""


_LONGEST_NAME = 128
_MOST_COMPARED = 1_000
_MOST_LISTED = 200


def nearest(name: str, valid: Iterable[str]) -> str:
    """Complete an error message about an unknown name: the nearest valid one, and all of them.

    A name may come from a caller and be of any length: what is longer than 128 characters is near to none. Of many
    valid names the first 1,000 in their order are compared, and the first 200 are listed.

    >>> nearest("epoch", ["epochs", "seed"])
    "did you mean 'epochs'? valid: epochs, seed"
    >>> nearest("zzz", ["epochs", "seed"])
    'valid: epochs, seed'
    >>> nearest("zzz", [])
    'there are none'
    """
    names = sorted(valid)
    if not names:
        return "there are none"
    close: list[str] = []
    if len(name) <= _LONGEST_NAME:
        compared = [other for other in names[:_MOST_COMPARED] if len(other) <= _LONGEST_NAME]
        close = difflib.get_close_matches(name, compared, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = [other if len(other) <= _LONGEST_NAME else f"{other[:_LONGEST_NAME]}..." for other in names[:_MOST_LISTED]]
    more = f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else ""
    return f"{hint}valid: {', '.join(listed)}{more}"
