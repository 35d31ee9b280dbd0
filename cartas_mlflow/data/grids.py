"""A table file, whatever program wrote it -> grids of raw cells, each row with its line in the file.

What a file is, its content says; the ending only helps where two kinds of text look alike.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cartas_mlflow.data.cells import cell_text
from cartas_mlflow.errors import DataError

KINDS = "csv, xlsx, xls, xlsb, ods, jsonl ou parquet"
FORMULA = "fórmula sem valor"
"""The defect of a cell whose formula no program has computed yet."""
HEADER_LINES = 20
"""The header stands in one of the first so many lines."""
PIECE = 1 << 20
"""Bytes or characters of a file that are held at once."""
CHUNK = 5_000
"""Rows that are held at once."""
_BLANK = b" \t\r\n\x00"
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


Row = tuple[int, Sequence[Any]]
"""(line in the file, raw cells)."""


@dataclass(frozen=True)
class Rows:
    """Rows that are read from their file anew whenever someone goes through them: no table has to fit in the memory."""

    read: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.read()


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

    ``rows``: those that are not empty; ``defects``: (line, place) -> why a cell has no value, where
    the file tells (an error, a formula that nobody has computed); ``named``: the first row holds names that the format
    itself gives (jsonl, parquet).
    """

    rows: Iterable[Row]
    sheet: str | None = None
    hidden: bool = False
    named: bool = False
    defects: Mapping[tuple[int, int], str] = field(default_factory=dict)
    dialect: Dialect | None = None
    """None for a file that is no delimited text."""
    remark: str | None = None
    """A Portuguese sentence on how the file was read, where that was not plain."""

    @cached_property
    def head(self) -> list[Row]:
        """The first rows, among them every line that may be the header."""
        return list(itertools.islice(self.rows, HEADER_LINES + 1))


def read_grids(path: Path) -> list[Grid]:
    """Every grid of a file, in the file's order.

    Raises:
        DataError: the file is missing, a folder, empty, damaged, locked by a password, or no table at all.
    """
    start = _first_bytes(path)
    if start[:4] == b"PK\x03\x04" or start[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        from cartas_mlflow.data.workbooks import read_workbook

        return read_workbook(path, path.read_bytes())
    if start[:4] == b"PAR1":
        return [_read_parquet(path)]
    other = next((what for magic, what in OTHER_DOCUMENTS.items() if start.startswith(magic)), None)
    if other is not None:
        raise DataError(f"{path} {other}, não uma tabela; indique em data.path um arquivo {KINDS}.")
    from cartas_mlflow.data.text_tables import read_text_table

    return [read_text_table(path)]


def locked(path: Path) -> DataError:
    """The error for a spreadsheet with a password."""
    return DataError(f"{path} está protegido por senha; salve uma cópia sem senha e indique-a.")


def damaged(path: Path) -> DataError:
    """The error for a spreadsheet that cannot be read."""
    return DataError(f"{path} não é uma planilha íntegra; abra-a e salve de novo como xlsx.")


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file that is one, and holds something."""
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
        with path.open("rb") as file:
            start = file.read(PIECE)
            blank = not start.strip(_BLANK)
            while blank and (more := file.read(PIECE)):
                blank = not more.strip(_BLANK)
    except (OSError, ValueError):
        raise DataError(f"{path} não pôde ser lido; confira data.path e as permissões do arquivo.") from None
    if blank:
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    if path.name.startswith("~$"):
        raise DataError(f"{path} é o arquivo temporário de uma planilha aberta; indique {path.name[2:]}.")
    return start


def _read_parquet(path: Path) -> Grid:
    import pyarrow
    import pyarrow.parquet

    def read() -> Iterator[Row]:
        line = 2
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK):  # takes two columns of one name
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield line, cells
                line += 1

    try:
        names = pyarrow.parquet.ParquetFile(path).schema_arrow.names
        deque(read(), maxlen=0)
    except (pyarrow.ArrowException, OSError, ValueError):
        raise DataError(f"{path} não é um arquivo parquet íntegro; exporte a tabela de novo.") from None
    return named_grid(names, Rows(read))


def named_grid(columns: Sequence[str], rows: Iterable[Row]) -> Grid:
    """A grid of columns that have names: the first row is the header."""

    def read() -> Iterator[Row]:
        yield 1, list(columns)
        yield from (row for row in rows if holds_text(row[1]))

    return Grid(Rows(read) if columns else [], named=True)


def holds_text(cells: Sequence[Any]) -> bool:
    """Whether a row is not empty."""
    return any(cell_text(cell).strip() for cell in cells)
