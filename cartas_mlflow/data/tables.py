"""Read a table file of any known format into rows of text, each with the line that it came from.

File -> grids (``workbooks``, ``opendocument``, ``text_tables``) -> the grid and the row that have the columns
(``columns``) -> texts (``cells``).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cartas_mlflow.data.cells import NOT_TEXT, cell_text, is_error, kind_of, label_text
from cartas_mlflow.data.columns import Match, open_question, paste_line
from cartas_mlflow.data.formats import read_content, recognize
from cartas_mlflow.data.grids import Grid
from cartas_mlflow.data.headers import Header, find_header, header_score
from cartas_mlflow.data.matching import clean_name, nearest_names
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import ColumnNames


@dataclass(frozen=True)
class Table:
    """Columns in file order, and the rows as (line number in the file, column -> text).

    An empty cell is ``""`` or absent; so is a cell that holds an error.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field of a record -> the column that holds it; a field whose column was not found is absent."""
    open: str | None = None
    """What to tell the user where a field that the settings want has no column: one message, with the line to paste."""
    kind: str = "csv"
    sheet: str | None = None
    header_line: int = 1
    errors: tuple[tuple[int, str, str], ...] = ()
    """(line, column, error) of the cells that hold an error value."""
    formulas: tuple[tuple[int, str], ...] = ()
    """(line, column) of formulas that no program has computed yet: there is no value in the file."""
    not_text: Mapping[str, int] = field(default_factory=dict)
    """Column -> first line where it holds a list, an object or bytes, which no reading can be made of."""
    notes: tuple[str, ...] = ()
    """What the user should know of how the table was read, a line each."""


def read_table(path: Path, sheet: str | None = None, columns: ColumnNames | None = None) -> Table:
    """Read a table: csv with any separator and encoding, xlsx, xls, xlsb, ods, jsonl, parquet.

    The sheet is the first that has the columns, visible ones before hidden ones; the header the first of the first 20
    rows that has them. Line numbers count physical lines for text files and rows for the others.

    Args:
        sheet: the sheet's name, in any spelling; None: the one that has the columns.
        columns: the names of the columns; None: the usual ones.

    Raises:
        DataError: no such file, or a file that is no table; a sheet that does not exist; a row with more cells than the
            header.
    """
    names = columns or ColumnNames()
    content = read_content(path)
    kind = recognize(path, content)
    grids = _read_grids(path, content, kind, names)
    if sheet is not None and kind in ("xlsx", "xls", "xlsb", "ods"):
        grids = [_named_sheet(path, grids, sheet)]
    headers = [(grid, find_header(grid, names)) for grid in sorted(grids, key=lambda grid: grid.hidden) if grid.rows]
    headers = [(grid, header) for grid, header in headers if header is not None]
    if not headers:
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    # max takes the first of equals: the first sheet that has all columns
    grid, header = max(headers, key=lambda pair: (pair[1].complete, len(pair[1].match.found)))
    others = [other.sheet for other, its in headers if other is not grid and its.complete and header.complete]
    return _build(path, kind, grid, header, names, [name for name in others if name])


def _read_grids(path: Path, content: bytes, kind: str, names: ColumnNames) -> list[Grid]:
    if kind == "csv":
        from cartas_mlflow.data.text_tables import read_csv

        return [read_csv(path, content, lambda rows: max((header_score(row, names) for row in rows[:20]), default=0))]
    if kind == "jsonl":
        from cartas_mlflow.data.text_tables import read_jsonl

        return [read_jsonl(path, content)]
    if kind == "parquet":
        return [_read_parquet(path, content)]
    if kind == "ods":
        from cartas_mlflow.data.opendocument import read_opendocument

        return read_opendocument(path, content)
    from cartas_mlflow.data.workbooks import read_workbook

    return read_workbook(path, content, kind)


def _read_parquet(path: Path, content: bytes) -> Grid:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_table(io.BytesIO(content))
        rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError):
        raise DataError(f"{path} não é um arquivo parquet íntegro; exporte a tabela de novo.") from None
    lines = [(1, list(columns.column_names)), *((line, list(row)) for line, row in enumerate(rows, start=2))]
    return Grid(lines if columns.column_names else [], headed=True)


def _named_sheet(path: Path, grids: Sequence[Grid], sheet: str) -> Grid:
    titles = [grid.sheet or "" for grid in grids]
    exact = [grid for grid in grids if grid.sheet == sheet]
    same = exact or [grid for grid in grids if clean_name(grid.sheet or "") == clean_name(sheet)]
    if not same:
        near = nearest_names(sheet, titles, 1)
        hint = f" (você quis dizer {near[0]}?)" if near else ""
        raise DataError(f"{path} não tem a planilha {sheet}{hint}; escolha data.sheet entre: {', '.join(titles)}.")
    return same[0]


def _build(path: Path, kind: str, grid: Grid, header: Header, names: ColumnNames, others: Sequence[str]) -> Table:
    columns = _unique(header.labels)
    fields = {name: columns[place] for name, place in header.match.found.items()}
    label_columns = {column for name, column in fields.items() if name != "texto"}
    keys = {place: clean_name(header.labels[place]) for place in header.match.found.values()}
    rows: list[tuple[int, dict[str, str]]] = []
    errors: list[tuple[int, str, str]] = []
    formulas: list[tuple[int, str]] = []
    not_text: dict[str, int] = {}
    kinds: dict[tuple[str, str], list[str]] = {}
    repeated: list[int] = []
    wide: list[tuple[int, int]] = []
    for line, values in grid.rows[header.index + 1 :]:
        texts = [str(value) if isinstance(value, NOT_TEXT) else cell_text(value).strip() for value in values]
        if kind == "csv" and any(texts[len(columns) :]):
            wide.append((line, len(texts)))
        if keys and all(place < len(texts) and clean_name(texts[place]) == key for place, key in keys.items()):
            repeated.append(line)
            continue
        for place, (column, value, text) in enumerate(zip(columns, values, texts, strict=False)):
            error = grid.errors.get((line, place)) or (text if is_error(text) else None)
            if error:
                errors.append((line, column, error))
                texts[place] = ""
            elif (line, place) in grid.formulas:
                formulas.append((line, column))
            elif isinstance(value, NOT_TEXT):
                not_text.setdefault(column, line)
            elif column in label_columns:
                texts[place] = label_text(text)
            if place in keys and text and not error and (of := kind_of(value)):
                kinds.setdefault((column, of), []).append(text)
        if any(texts) or line in {line for line, *_ in errors[-1:] + formulas[-1:]}:
            rows.append((line, dict(zip(columns, texts, strict=False))))
    if wide:
        raise DataError(_too_wide(path, wide, len(columns)))
    used = set(fields.values())
    return Table(
        columns,
        tuple(rows),
        fields,
        open_question(str(path), header.labels, header.match, names),
        kind,
        grid.sheet,
        grid.rows[header.index][0],
        tuple(error for error in errors if error[1] in used),
        tuple(formula for formula in formulas if formula[1] in used),
        not_text,
        (*grid.notes, *_notes(header.match, kinds, repeated, others)),
    )


def _notes(
    match: Match, kinds: Mapping[tuple[str, str], Sequence[str]], repeated: Sequence[int], others: Sequence[str]
) -> Iterator[str]:
    if others:
        have = "tem" if len(others) == 1 else "têm"
        yield f'⚠️ Também {have} as colunas: {", ".join(others)}. Para ler outra planilha: -P data.sheet="{others[0]}"'
    if match.renamed:
        pairs = ", ".join(f"{name} = {label}" for name, label in match.renamed.items())
        yield f"⚠️ Colunas por outro nome: {pairs}. Para fixá-las: {paste_line(match.renamed)}"
    for (column, of), texts in kinds.items():
        many = of if len(texts) == 1 else {"data": "datas", "hora": "horas", "número": "números"}[of]
        yield f"⚠️ Coluna {column}: {len(texts)} {many} em vez de texto, no pedido como “{texts[0]}”"
    if repeated:
        yield f"⚠️ Cabeçalho repetido no meio da tabela, deixado de fora (linhas: {list_lines(repeated)})"


def _too_wide(path: Path, wide: Sequence[tuple[int, int]], columns: int) -> str:
    line, count = wide[0]
    more = f" (e em mais {len(wide) - 1}: {list_lines([line for line, _ in wide[1:]])})" if len(wide) > 1 else ""
    return (
        f"{path}, linha {line}: há {count} campos para {columns} colunas{more}; ponha entre aspas o texto que contém o "
        "separador."
    )


def list_lines(lines: Sequence[int]) -> str:
    """Line numbers for the user, ten at most."""
    return ", ".join(map(str, lines[:10])) + (", …" if len(lines) > 10 else "")


def _unique(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, the second ``Nota`` as ``Nota (2)``; one without a name stays ``""``."""
    seen: Counter[str] = Counter()
    columns = []
    for label in labels:
        seen[label] += 1
        columns.append(f"{label} ({seen[label]})" if label and seen[label] > 1 else label)
    return tuple(columns)
