"""Read a table file (csv, xlsx, jsonl, parquet) into rows of text, each with the line it came from."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.errors import DataError

SUFFIXES = (".csv", ".xlsx", ".jsonl", ".parquet")
_MAGIC = {b"PK\x03\x04": ".xlsx", b"PAR1": ".parquet"}
_NOT_TEXT = (dict, list, bytes)


@dataclass(frozen=True)
class Table:
    """Columns in file order, and the rows as (line number in the file, column -> text).

    An empty cell is ``""`` or absent.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    not_text: dict[str, int] = field(default_factory=dict)
    """Column -> first line where it holds a list, an object or bytes, which no reading can be made of."""


def read_table(path: Path, sheet: str | None = None) -> Table:
    """Read a table by its file ending.

    csv: comma, semicolon or tab; UTF-8 (with or without BOM), UTF-16 with BOM, or else Windows-1252. Line numbers count
    physical lines for csv and jsonl, and table rows (header = 1) for xlsx and parquet.

    Raises:
        DataError: the file is missing, a folder, empty, of an unknown ending, or is not what its ending says.
    """
    content = _read_content(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        table = _read_csv(path, content)
    elif suffix == ".jsonl":
        table = _read_jsonl(path, content)
    else:
        table = _read_xlsx(path, content, sheet) if suffix == ".xlsx" else _read_parquet(path, content)
    if not table.columns:
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    return table


def _read_content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DataError(f"{path} é uma pasta; indique em data.path um arquivo csv, xlsx, jsonl ou parquet.")
        if not path.exists():
            raise DataError(f"O arquivo de dados {path} não existe; confira data.path (ex.: data/cartas.csv).")
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise DataError(
                f"{path} tem a terminação {suffix or '(nenhuma)'}; use um arquivo csv, xlsx, jsonl ou parquet."
            )
        content = path.read_bytes()
    except OSError:
        raise DataError(f"{path} não pôde ser lido; confira data.path e as permissões do arquivo.") from None
    if not content.strip():
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    actual = _MAGIC.get(content[:4])
    if actual != (suffix if suffix in _MAGIC.values() else None):
        raise DataError(
            f"O conteúdo de {path} não é {suffix[1:]}"
            + (
                f" e sim {actual[1:]}; renomeie o arquivo para {path.stem}{actual}."
                if actual
                else "; exporte a tabela de novo."
            )
        )
    return content


def _decode(path: Path, content: bytes) -> str:
    kind = path.suffix.lower()[1:]
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            raise DataError(f"{path} é um texto UTF-16 cortado; exporte a tabela como {kind} de novo.") from None
    if b"\x00" in content:
        raise DataError(f"O conteúdo de {path} é binário, não texto; exporte a tabela como {kind} em UTF-8 de novo.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        stray = content[: error.start].count(b"\n") + 1
    tolerant = content.decode("utf-8", errors="replace")
    if sum(not character.isascii() for character in tolerant) > 2 * tolerant.count("\ufffd"):
        raise DataError(
            f"{path}, linha {stray}: o arquivo está em UTF-8, menos esta linha; salve o arquivo inteiro em UTF-8."
        )
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, linha {line}: o texto não está em UTF-8 nem em Windows-1252; salve o arquivo em UTF-8."
        ) from None


def _read_csv(path: Path, content: bytes) -> Table:
    text = _decode(path, content)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    columns: tuple[str, ...] | None = None
    before = 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _header(path, cells)
                continue
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise DataError(
                    f"{path}, linha {line}: há {len(cells)} campos para {len(columns)} colunas; ponha entre aspas "
                    f'o texto que contém "{delimiter}".'.replace("\t", "tabulação")
                )
            rows.append((line, dict(zip(columns, cells, strict=False))))
    except csv.Error:
        raise DataError(
            f"{path}, linha {before + 1}: as aspas do csv não fecham ou estão fora do lugar; corrija a linha."
        ) from None
    return Table(columns or (), tuple(rows))


def _read_jsonl(path: Path, content: bytes) -> Table:
    rows: list[tuple[int, dict[str, str]]] = []
    columns: dict[str, None] = {}
    not_text: dict[str, int] = {}
    for line, text in enumerate(_decode(path, content).split("\n"), start=1):  # U+2028 may stand inside a JSON text
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is good JSON but no text
        except ValueError:
            raise DataError(f"{path}, linha {line}: não é JSON válido; cada linha deve ser um objeto JSON.") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}, linha {line}: deve ser um objeto JSON (ex.: {{"carta": "O Sol", …}}).')
        row = {clean_text(key): value for key, value in row.items()}
        columns |= dict.fromkeys(row)
        not_text = {key: line for key, value in row.items() if isinstance(value, _NOT_TEXT)} | not_text
        rows.append((line, {key: _cell(value) for key, value in row.items()}))
    return Table(tuple(columns), tuple(rows), not_text)


def _read_xlsx(path: Path, content: bytes, sheet: str | None) -> Table:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    # SyntaxError: broken XML, whichever parser reads it
    broken = (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        InvalidFileException,
        SyntaxError,
        KeyError,
        ValueError,
        OSError,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of spreadsheet features that hold no text
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            pages = {page.title: page for page in book.worksheets}
            if sheet is not None and sheet not in pages:
                raise DataError(f"{path} não tem a planilha {sheet}; escolha data.sheet entre: {', '.join(pages)}.")
            page = pages[sheet] if sheet is not None else book.worksheets[0]
            page.reset_dimensions()  # some programs write a wrong one, and cells outside it would be lost
            lines = list(page.iter_rows(values_only=True))
    except broken:
        raise DataError(f"{path} não é uma planilha xlsx íntegra; abra-a e salve de novo como xlsx.") from None
    return _from_cells(path, lines)


def _read_parquet(path: Path, content: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path} não é um arquivo parquet íntegro; exporte a tabela de novo.") from None
    return _from_cells(path, [columns.column_names, *zip(*(column.to_pylist() for column in columns), strict=True)])


def _from_cells(path: Path, lines: Iterable[Iterable[Any]]) -> Table:
    """``lines``: all of the table's, the first one numbered 1; the first that is not empty is the header."""
    columns: tuple[str, ...] | None = None
    rows: list[tuple[int, dict[str, str]]] = []
    not_text: dict[str, int] = {}
    for line, values in enumerate(lines, start=1):
        cells = [_cell(value) for value in values]
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = _header(path, cells)
            continue
        for column, value in zip(columns, values, strict=False):
            if isinstance(value, _NOT_TEXT):
                not_text.setdefault(column, line)
        rows.append((line, dict(zip(columns, cells, strict=False))))
    return Table(columns or (), tuple(rows), not_text)


def _header(path: Path, cells: list[str]) -> tuple[str, ...]:
    columns = tuple(map(clean_text, cells))
    while not columns[-1]:
        columns = columns[:-1]
    repeated = sorted({column for column in columns if column and columns.count(column) > 1})
    if repeated:
        raise DataError(f"{path}: a coluna {repeated[0]} aparece mais de uma vez no cabeçalho; dê nomes diferentes.")
    return columns


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
