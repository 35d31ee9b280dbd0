"""Which row of a grid is its header: the first of the first rows that has the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cartas_mlflow.data.cells import NOT_TEXT, cell_text
from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.data.columns import ALL_FIELDS, Match, match_columns
from cartas_mlflow.data.grids import Grid
from cartas_mlflow.settings import ColumnNames

_HEADER_ROWS = 20
"""A header is looked for in so many rows that hold something."""


@dataclass(frozen=True)
class Header:
    """Where a grid's header stands: index of its (last) row, its labels, and what they match."""

    index: int
    labels: tuple[str, ...]
    match: Match
    complete: bool


def _labels(cells: Sequence[Any]) -> tuple[str, ...]:
    labels = [clean_text(cell_text(cell)) if not isinstance(cell, NOT_TEXT) else "" for cell in cells]
    while labels and not labels[-1]:
        labels.pop()
    return tuple(labels)


def header_score(cells: Sequence[Any], names: ColumnNames) -> int:
    match = match_columns(_labels(cells), names)
    return len(match.found) + len(match.doubtful)


def find_header(grid: Grid, names: ColumnNames) -> Header | None:
    wanted = [name for name in ALL_FIELDS if getattr(names, name) is not None]
    rows = [(place, cells) for place, (_, cells) in enumerate(grid.rows) if any(_labels(cells))]
    candidates = []
    for number, (place, cells) in enumerate(rows[: 1 if grid.headed else _HEADER_ROWS]):
        header = _header(grid, place, _labels(cells), names, wanted)
        candidates.append(header)
        if header.complete:
            return header
        if number + 1 < len(rows) and header.match.found and not grid.headed:  # a header over two rows
            below = _labels(rows[number + 1][1])
            upper = header.labels + ("",) * (len(below) - len(header.labels))
            both = tuple(low or up for up, low in zip(upper, below + ("",) * (len(upper) - len(below)), strict=True))
            joined = _header(grid, rows[number + 1][0], both, names, wanted)
            if joined.complete and header_score(below, names) < len(wanted):
                return joined
    return max(candidates, key=lambda header: len(header.match.found) + len(header.match.doubtful), default=None)


def _header(grid: Grid, place: int, labels: tuple[str, ...], names: ColumnNames, wanted: Sequence[str]) -> Header:
    match = match_columns(labels, names)
    if match.doubtful:  # one of two columns of the same name may be empty
        below = grid.rows[place + 1 :]
        empty = {column for column in range(len(labels)) if not any(_is_filled(cells, column) for _, cells in below)}
        match = match_columns(labels, names, empty)
    return Header(place, labels, match, all(name in match.found for name in wanted))


def _is_filled(cells: Sequence[Any], column: int) -> bool:
    return column < len(cells) and cells[column] not in (None, "")
