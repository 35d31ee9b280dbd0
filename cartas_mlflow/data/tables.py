"""A table file -> its rows as clean text, each with the line it came from, and how the file was understood."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cartas_mlflow.data.cells import NOT_TEXT, cell_text, clean_text, is_error, kind_of, label_text
from cartas_mlflow.data.grids import Dialect, Grid, read_grids
from cartas_mlflow.data.headers import find_table
from cartas_mlflow.errors import DataError

TextRow = tuple[int, dict[str, str]]
"""(line in the file, column -> text); an empty cell is ``""`` or absent."""
_SHORT, _REMEMBERED = 64, 100_000
"""Characters of a cell that is remembered; number of such cells."""


@dataclass(frozen=True)
class Table:
    """How a file was understood, and what stood in it.

    ``columns``: the header, in file order; ``fields``: field -> its column; ``defects``: (line, column) -> why the cell
    is empty although something stands there (``#N/A``, a formula without a value); ``kinds``: field -> kind of value
    besides text -> how often, ``examples``: field -> the first text with a digit in front; ``repeated_headers``: lines
    that repeat the header, left out; ``read``: number of rows.
    """

    columns: tuple[str, ...]
    rows: tuple[TextRow, ...]
    """All of them, or none: where they were taken one by one, nobody holds them."""
    read: int
    fields: Mapping[str, str]
    header_line: int = 1
    sheet: str | None = None
    defects: Mapping[tuple[int, str], str] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    repeated_headers: tuple[int, ...] = ()
    dialect: Dialect | None = None
    """Of a delimited text."""
    remarks: tuple[str, ...] = ()
    """Portuguese sentences on what was not plain: encoding, sheet, header, columns."""


class _Cell(NamedTuple):
    """A cell's clean text; the same as a prompt's field; the error that it is; what it holds besides text."""

    text: str
    label: str
    error: str | None
    kind: str | None

    @classmethod
    def of(cls, value: Any) -> _Cell:
        text = clean_text(cell_text(value))
        return cls(text, label_text(text), text if is_error(text) else None, kind_of(value) if text else None)


class TableReader:
    """The rows of a table one by one, and what was noticed on the way. Takes the arguments of :func:`read_table`."""

    def __init__(
        self, path: Path, names: Mapping[str, str], *, sheet: str | None = None, optional: Sequence[str] = ()
    ) -> None:
        self._path = path
        self._header, self._remarks = find_table(path, read_grids(path), names, sheet=sheet, optional=optional)
        self._columns = _unique(self._header.titles)
        self.fields = {name: self._columns[place] for name, place in self._header.fields.items()}
        self._read = 0
        self._defects: dict[tuple[int, str], str] = {}
        self._kinds: dict[str, Counter[str]] = {name: Counter() for name in self.fields}
        self._examples: dict[str, str] = {}
        self._again: list[int] = []
        self._known: dict[str, _Cell] = {}

    def __iter__(self) -> Iterator[TextRow]:
        """Once.

        Raises:
            DataError: a line with more fields than the header, or a field that holds no text.
        """
        header, grid, columns = self._header, self._header.grid, self._columns
        named = [(place, column) for place, column in enumerate(columns) if column]
        fields = [(name, place, columns[place]) for name, place in header.fields.items()]
        titles = [(place, header.titles[place]) for _, place, _ in fields]
        unseen = dict(self.fields)
        for line, raw in itertools.islice(grid.rows, header.place + 1, None):
            cells = [self._understand(cell) for cell in raw]
            if fields and all(place < len(cells) and cells[place].text == title for place, title in titles):
                self._again.append(line)
                continue
            if grid.dialect is not None and len(cells) > len(columns):
                _refuse_overflow(self._path, line, cells, columns, grid.dialect.delimiter)
            row = {column: cells[place].text for place, column in named if place < len(cells)}
            found = _defects(grid, line, cells[: len(columns)])
            for place, defect in found.items():
                row[columns[place]] = ""
                self._defects[line, columns[place]] = defect
            for name, place, column in fields:
                if place < len(cells) and place not in found:
                    _refuse_objects(self._path, line, column, raw[place])
                    if name != "texto":
                        row[column] = cells[place].label
                    if (kind := cells[place].kind) is not None:
                        self._kinds[name][kind] += 1
            if found or not fields or any(row.get(column) for _, _, column in fields):
                self._read += 1
                for name in [name for name, column in unseen.items() if row.get(column, "")[:1].isdigit()]:
                    self._examples[name] = row[unseen.pop(name)]
                yield line, row

    def table(self, rows: Iterable[TextRow] = ()) -> Table:
        """The table, complete once its rows have been taken."""
        kept = tuple(rows)
        header = self._header
        return Table(
            columns=tuple(column for column in self._columns if column),
            rows=kept,
            read=self._read,
            fields=self.fields,
            header_line=header.line,
            sheet=header.grid.sheet,
            defects=self._defects,
            kinds={name: dict(counter) for name, counter in self._kinds.items() if counter},
            examples=self._examples,
            repeated_headers=tuple(self._again),
            dialect=header.grid.dialect,
            remarks=self._remarks,
        )

    def _understand(self, cell: Any) -> _Cell:
        """What stands in the cell; short texts come again and again, and are looked at, and held, once."""
        if not isinstance(cell, str) or len(cell) > _SHORT:
            return _Cell.of(cell)
        known = self._known.get(cell)
        if known is None:
            known = _Cell.of(cell)
            if len(self._known) < _REMEMBERED:
                self._known[cell] = known
        return known


def read_table(
    path: Path,
    names: Mapping[str, str] | None = None,
    *,
    sheet: str | None = None,
    optional: Sequence[str] = (),
) -> Table:
    """Find the table in a file and read it.

    The header is the first of the first 20 lines of a sheet that has the columns, at any offset. Lines are numbered as
    the program that wrote the file shows them; for parquet as if the header were line 1.

    Args:
        names: field -> name of its column; None: whatever the first line says.
        sheet: name of the sheet; None: look for it.
        optional: fields that the table need not have.

    Raises:
        DataError: see :func:`~cartas_mlflow.data.grids.read_grids` and :func:`~cartas_mlflow.data.headers.find_table`;
            a line with more fields than the header, or a field that holds no text.
    """
    reader = TableReader(path, names or {}, sheet=sheet, optional=optional)
    return reader.table(reader)


def _unique(titles: Sequence[str]) -> list[str]:
    """Names of the columns: a title that comes again is numbered, so that no cell is lost."""
    seen: Counter[str] = Counter()
    columns = []
    for title in titles:
        seen[title] += bool(title)
        columns.append(f"{title} ({seen[title]})" if seen[title] > 1 else title)
    while columns and not columns[-1]:
        columns.pop()
    return columns


def _defects(grid: Grid, line: int, cells: Sequence[_Cell]) -> dict[int, str]:
    """Place -> why the cell has no value."""
    defects = {place: cell.error for place, cell in enumerate(cells) if cell.error is not None}
    if grid.defects:
        defects |= {place: grid.defects[line, place] for place in range(len(cells)) if (line, place) in grid.defects}
    return defects


def _refuse_overflow(path: Path, line: int, cells: Sequence[_Cell], columns: Sequence[str], delimiter: str) -> None:
    if any(cell.text for cell in cells[len(columns) :]):
        sign = "tabulação" if delimiter == "\t" else f'"{delimiter}"'
        raise DataError(
            f"{path}, linha {line}: há {len(cells)} campos para {len(columns)} colunas; ponha entre aspas o texto que "
            f"contém {sign}."
        )


def _refuse_objects(path: Path, line: int, column: str, value: Any) -> None:
    if isinstance(value, NOT_TEXT):
        raise DataError(
            f"{path}, linha {line}: o campo {column} deve ser um texto, não uma lista, um objeto nem bytes."
        )
