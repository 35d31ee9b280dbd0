"""The cells of a table as its file holds them, each with its place; what they mean is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Grid:
    """One sheet, or one text file. Empty rows may be absent.

    ``rows``: (line number in the file, raw cells from the first column on). ``errors`` and ``formulas``: (line, column
    counted from 0) of cells that hold an error (with its text), and of formulas without a stored value.
    """

    rows: list[tuple[int, list[Any]]]
    sheet: str | None = None
    hidden: bool = False
    headed: bool = False
    """The first row is the header, whatever it says: the format has columns of its own."""
    errors: dict[tuple[int, int], str] = field(default_factory=dict)
    formulas: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()
    """What the user should know of how the file was read, a line each."""


def fill_merged(rows: list[tuple[int, list[Any]]], ranges: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    """Give every cell of a merged range its first cell's value, in place.

    Args:
        rows: sorted by line (from 1).
        ranges: ((first row, first column), (last row, last column)), counted from 0.
    """
    by_line = dict(rows)
    width = max((len(cells) for _, cells in rows), default=0)
    for (top, left), (bottom, right) in ranges:
        first = by_line.get(top + 1, [])
        value = first[left] if left < len(first) else None
        if value in (None, ""):
            continue
        # A range may span a whole column; nothing stands beyond the last line.
        lines = range(top + 1, bottom + 2) if bottom - top < len(by_line) else by_line
        for line in lines:
            cells = by_line.get(line)
            if cells is None or not top < line <= bottom + 1:
                continue
            last = min(right + 1, width)
            cells.extend([None] * (last - len(cells)))
            cells[left:last] = [value] * (last - left)
