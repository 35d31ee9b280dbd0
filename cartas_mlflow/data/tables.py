"""A table file -> its rows as clean text, each with the line it came from, and how the file was understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartas_mlflow.data.cells import NOT_TEXT, cell_text, clean_text, is_error, kind_of, label_text
from cartas_mlflow.data.grids import Dialect, read_grids
from cartas_mlflow.data.headers import Header, find_table
from cartas_mlflow.errors import DataError


@dataclass(frozen=True)
class Table:
    """``rows``: (line in the file, column -> text); an empty cell is ``""`` or absent.

    ``columns``: the header, in file order; ``fields``: field -> its column; ``defects``: (line, column) -> why the cell
    is empty although something stands there (``#N/A``, a formula without a value); ``kinds``: field -> kind of value
    besides text -> how often; ``repeated_headers``: lines that repeat the header, left out.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    fields: Mapping[str, str]
    header_line: int = 1
    sheet: str | None = None
    defects: Mapping[tuple[int, str], str] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    repeated_headers: tuple[int, ...] = ()
    dialect: Dialect | None = None
    """Of a delimited text."""
    remarks: tuple[str, ...] = ()
    """Portuguese sentences on what was not plain: encoding, sheet, header, columns."""


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
    header, remarks = find_table(path, read_grids(path), names or {}, sheet=sheet, optional=optional)
    grid, titles = header.grid, header.titles
    columns = _unique(titles)
    rows: list[tuple[int, dict[str, str]]] = []
    defects: dict[tuple[int, str], str] = {}
    kinds: dict[str, Counter[str]] = {name: Counter() for name in header.fields}
    again: list[int] = []
    for line, cells in grid.rows[header.place + 1 :]:
        texts = [clean_text(cell_text(cell)) for cell in cells]
        if header.fields and all(texts[place : place + 1] == [titles[place]] for place in header.fields.values()):
            again.append(line)
            continue
        if grid.dialect is not None:
            _refuse_overflow(path, line, texts, columns, grid.dialect.delimiter)
        found = {
            place: defect
            for place, text in enumerate(texts[: len(columns)])
            if (defect := grid.defects.get((line, place)) or (text if is_error(text) else None))
        }
        defects |= {(line, columns[place]): defect for place, defect in found.items()}
        row = {column: "" if place in found else texts[place] for place, column in _named(columns, texts)}
        for name, place in header.fields.items():
            if place < len(texts) and place not in found:
                _refuse_objects(path, line, columns[place], cells[place])
                row[columns[place]] = texts[place] if name == "texto" else label_text(texts[place])
                if texts[place] and (kind := kind_of(cells[place])):
                    kinds[name][kind] += 1
        if _holds_something(row, header, columns) or found:
            rows.append((line, row))
    return Table(
        columns=tuple(column for column in columns if column),
        rows=tuple(rows),
        fields={name: columns[place] for name, place in header.fields.items()},
        header_line=header.line,
        sheet=grid.sheet,
        defects=defects,
        kinds={name: dict(counter) for name, counter in kinds.items() if counter},
        repeated_headers=tuple(again),
        dialect=grid.dialect,
        remarks=remarks,
    )


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


def _named(columns: Sequence[str], texts: Sequence[str]) -> list[tuple[int, str]]:
    return [(place, column) for place, column in enumerate(columns[: len(texts)]) if column]


def _holds_something(row: Mapping[str, str], header: Header, columns: Sequence[str]) -> bool:
    """A note or a sum beside the table's own columns is no row of it."""
    return not header.fields or any(row.get(columns[place]) for place in header.fields.values())


def _refuse_overflow(path: Path, line: int, texts: Sequence[str], columns: Sequence[str], delimiter: str) -> None:
    if any(texts[len(columns) :]):
        sign = "tabulação" if delimiter == "\t" else f'"{delimiter}"'
        raise DataError(
            f"{path}, linha {line}: há {len(texts)} campos para {len(columns)} colunas; ponha entre aspas o texto que "
            f"contém {sign}."
        )


def _refuse_objects(path: Path, line: int, column: str, value: Any) -> None:
    if isinstance(value, NOT_TEXT):
        raise DataError(
            f"{path}, linha {line}: o campo {column} deve ser um texto, não uma lista, um objeto nem bytes."
        )
