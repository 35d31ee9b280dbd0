"""Read a table file (csv, xlsx, jsonl, parquet) into rows of text, each with the line it came from."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.errors import DataError

SUFFIXES = (".csv", ".xlsx", ".jsonl", ".parquet")
_MAGIC = {b"PK\x03\x04": ".xlsx", b"PAR1": ".parquet"}


@dataclass(frozen=True)
class Table:
    """Columns in file order, and the rows as (line number in the file, column -> text); an empty cell is ``""``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(path: Path, sheet: str | None = None) -> Table:
    """Read a table by its file ending.

    csv: comma or semicolon; UTF-8 (with or without BOM), UTF-16 with BOM, or else Windows-1252. Line numbers count
    physical lines for csv and jsonl, and table rows (header = 1) for xlsx and parquet.

    Raises:
        DataError: the file is missing, a folder, empty, of an unknown ending, or is not what its ending says.
    """
    if path.is_dir():
        raise DataError(f"{path} é uma pasta; indique em data.path um arquivo csv, xlsx, jsonl ou parquet.")
    if not path.exists():
        raise DataError(f"O arquivo de dados {path} não existe; confira data.path (ex.: data/cartas.csv).")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} tem a terminação {suffix or '(nenhuma)'}; use um arquivo csv, xlsx, jsonl ou parquet.")
    try:
        content = path.read_bytes()
    except PermissionError:
        raise DataError(f"Sem permissão para ler {path}; ajuste as permissões do arquivo.") from None
    if not content.strip():
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    actual = _MAGIC.get(content[:4])
    if actual != (suffix if suffix in {".xlsx", ".parquet"} else None):
        raise DataError(
            f"O conteúdo de {path} não é {suffix[1:]}"
            + (
                f" e sim {actual[1:]}; renomeie o arquivo para {path.stem}{actual}."
                if actual
                else "; exporte a tabela de novo."
            )
        )
    if suffix == ".csv":
        return _read_csv(path, content)
    if suffix == ".jsonl":
        return _read_jsonl(path, content)
    return _read_xlsx(path, content, sheet) if suffix == ".xlsx" else _read_parquet(path, content)


def _decode(path: Path, content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    if b"\x00" in content:
        raise DataError(f"O conteúdo de {path} é binário, não texto; exporte a tabela como {path.suffix[1:]} de novo.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, linha {line}: o texto não está em UTF-8 nem em Windows-1252; salve o arquivo em UTF-8."
        ) from None


def _read_csv(path: Path, content: bytes) -> Table:
    text = _decode(path, content)
    header_line = next(line for line in text.splitlines() if line.strip())
    delimiter = ";" if header_line.count(";") > header_line.count(",") else ","
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
            if len(cells) > len(columns):
                raise DataError(
                    f"{path}, linha {line}: há {len(cells)} campos para {len(columns)} colunas; ponha entre aspas "
                    f'o texto que contém "{delimiter}".'
                )
            rows.append((line, dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True))))
    except csv.Error:
        raise DataError(
            f"{path}, linha {before + 1}: as aspas do csv não fecham ou estão fora do lugar; corrija a linha."
        ) from None
    return Table(columns or (), tuple(rows))


def _read_jsonl(path: Path, content: bytes) -> Table:
    rows: list[tuple[int, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for line, text in enumerate(_decode(path, content).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            raise DataError(f"{path}, linha {line}: não é JSON válido; cada linha deve ser um objeto JSON.") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}, linha {line}: deve ser um objeto JSON (ex.: {{"carta": "O Sol", …}}).')
        for key, value in row.items():
            if isinstance(value, (dict, list)):
                raise DataError(f"{path}, linha {line}: o campo {key} deve ser um texto, não uma lista nem um objeto.")
        columns |= dict.fromkeys(row)
        rows.append((line, {key: _cell(value) for key, value in row.items()}))
    return Table(tuple(columns), tuple(rows))


def _read_xlsx(path: Path, content: bytes, sheet: str | None) -> Table:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError):
        raise DataError(f"{path} não é uma planilha xlsx íntegra; abra-a e salve de novo como xlsx.") from None
    if sheet is not None and sheet not in book.sheetnames:
        raise DataError(f"{path} não tem a planilha {sheet}; escolha data.sheet entre: {', '.join(book.sheetnames)}.")
    page = book[sheet] if sheet is not None else book.worksheets[0]
    return _from_cells(path, ((line, list(cells)) for line, cells in enumerate(page.iter_rows(values_only=True), 1)))


def _read_parquet(path: Path, content: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        frame = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path} não é um arquivo parquet íntegro; exporte a tabela de novo.") from None
    body = ((line, [row[name] for name in frame.column_names]) for line, row in enumerate(frame.to_pylist(), 2))
    return _from_cells(path, iter([(1, list(frame.column_names)), *body]))


def _from_cells(path: Path, lines: Iterator[tuple[int, list[Any]]]) -> Table:
    columns: tuple[str, ...] | None = None
    rows = []
    for line, values in lines:
        cells = [_cell(value) for value in values]
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            while cells and not cells[-1].strip():
                cells.pop()
            columns = _header(path, cells)
            continue
        rows.append((line, dict(zip(columns, cells, strict=False))))
    return Table(columns or (), tuple(rows))


def _header(path: Path, cells: list[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
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
