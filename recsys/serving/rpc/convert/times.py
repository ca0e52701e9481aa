"""Times of requests: milliseconds since 1970, as the contract for a row has them; shared by all calls."""

from __future__ import annotations

from recsys.errors import InvalidInputError
from recsys.features import values


def moment_ms(field: str, time_ms: int) -> int | None:
    """Check a point in time; None for 0.

    Raises:
        InvalidInputError: it is not in milliseconds, by its size.
    """
    if not time_ms:
        return None
    try:
        return values.time_ms(field, time_ms)
    except values.RefusedValueError as error:
        raise InvalidInputError(str(error).replace(f"{field!r}", field, 1)) from None
