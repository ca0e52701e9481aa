"""Need: one line of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from sizing.amounts import Amount

GB, TB = 1e9, 1e12


@dataclass(frozen=True)
class Need:
    """An amount of something.

    Attributes:
        figure: its name, without ``capacity.``.
        amount: with its range.
        unit: of the amount.
        how: the sum in words.
        sources: constants that it is made of (``recorded.SOURCES``).
    """

    figure: str
    amount: Amount
    unit: str
    how: str
    sources: tuple[str, ...] = ()
