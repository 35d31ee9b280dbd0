"""A table file, whatever program wrote it -> grids of raw cells, each row with its line in the file.

What a file is, its content says; the ending only helps where two kinds of text look alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartas_mlflow.data.cells import cell_text
from cartas_mlflow.errors import DataError

KINDS = "csv, xlsx, xls, xlsb, ods, jsonl ou parquet"
FORMULA = "fórmula sem valor"
"""The defect of a cell whose formula no program has computed yet."""
HEADER_LINES = 20
"""The header stands in one of the first so many lines."""
OTHER_DOCUMENTS = {
    b"%PDF": "é um PDF",
    b"\x89PNG": "é uma imagem",
    b"\xff\xd8\xff": "é uma imagem",
    b"GIF8": "é uma imagem",
    b"{\\rtf": "é um texto formatado (RTF)",
    b"Rar!": "é um arquivo compactado",
    b"7z\xbc\xaf": "é um arquivo compactado",
    b"\x1f\x8b": "é um arquivo compactado",
    b"SQLite format 3": "é um banco de dados",
}
"""First bytes -> what people send by mistake."""


@dataclass(frozen=True)
class Dialect:
    """How a text table was written, so that an answer can be written alike."""

    delimiter: str = ","
    encoding: str = "utf-8"
    byte_order_mark: bool = False
    line_end: str = "\n"


@dataclass(frozen=True)
class Grid:
    """One sheet, or the one table of a text file.

    ``rows``: (line, cells) of each row that is not empty; ``defects``: (line, place) -> why a cell has no value, where
    the file tells (an error, a formula that nobody has computed); ``named``: the first row holds names that the format
    itself gives (jsonl, parquet).
    """

    rows: Sequence[tuple[int, Sequence[Any]]]
    sheet: str | None = None
    hidden: bool = False
    named: bool = False
    defects: Mapping[tuple[int, int], str] = field(default_factory=dict)
    dialect: Dialect | None = None
    """None for a file that is no delimited text."""
    remark: str | None = None
    """A Portuguese sentence on how the file was read, where that was not plain."""


def read_grids(path: Path) -> list[Grid]:
    """Every grid of a file, in the file's order.

    Raises:
        DataError: the file is missing, a folder, empty, damaged, locked by a password, or no table at all.
    """
    content = _read_content(path)
    start = content[:8]
    if start[:4] == b"PK\x03\x04" or start == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        from cartas_mlflow.data.workbooks import read_workbook

        return read_workbook(path, content)
    if start[:4] == b"PAR1":
        return [_read_parquet(path, content)]
    other = next((what for magic, what in OTHER_DOCUMENTS.items() if content.startswith(magic)), None)
    if other is not None:
        raise DataError(f"{path} {other}, não uma tabela; indique em data.path um arquivo {KINDS}.")
    from cartas_mlflow.data.text_tables import read_text_table

    return [read_text_table(path, content)]


def locked(path: Path) -> DataError:
    """The error for a spreadsheet with a password."""
    return DataError(f"{path} está protegido por senha; salve uma cópia sem senha e indique-a.")


def damaged(path: Path) -> DataError:
    """The error for a spreadsheet that cannot be read."""
    return DataError(f"{path} não é uma planilha íntegra; abra-a e salve de novo como xlsx.")


def _read_content(path: Path) -> bytes:
    shown = str(path)
    if re.match(r"\w{2,}:/", shown):
        raise DataError(f"{shown} é um endereço da internet; baixe a tabela e indique o arquivo em data.path.")
    try:
        if path.is_dir():
            raise DataError(f"{path} é uma pasta; indique em data.path um arquivo {KINDS}.")
        if not path.exists():
            raise DataError(f"O arquivo de dados {path} não existe; confira data.path (ex.: data/cartas.csv).")
        if not path.is_file():
            raise DataError(f"{path} não é um arquivo comum; indique em data.path um arquivo {KINDS}.")
        content = path.read_bytes()
    except (OSError, ValueError):
        raise DataError(f"{path} não pôde ser lido; confira data.path e as permissões do arquivo.") from None
    if not content.strip(b" \t\r\n\x00"):
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    if path.name.startswith("~$"):
        raise DataError(f"{path} é o arquivo temporário de uma planilha aberta; indique {path.name[2:]}.")
    return content


def _read_parquet(path: Path, content: bytes) -> Grid:
    import io

    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read()  # takes two columns of one name
        columns = [column.to_pylist() for column in table]
    except (pyarrow.ArrowException, OSError, ValueError):
        raise DataError(f"{path} não é um arquivo parquet íntegro; exporte a tabela de novo.") from None
    return named_grid(table.column_names, list(enumerate(zip(*columns, strict=True), start=2)))


def named_grid(columns: Sequence[str], rows: Sequence[tuple[int, Sequence[Any]]]) -> Grid:
    """A grid of columns that have names: the first row is the header."""
    kept = [(line, cells) for line, cells in rows if any(cell_text(cell).strip() for cell in cells)]
    return Grid([(1, list(columns)), *kept] if columns else [], named=True)
