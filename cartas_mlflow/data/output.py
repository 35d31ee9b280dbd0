"""A table into a file: csv, xlsx, jsonl or parquet, whole or not at all."""

from __future__ import annotations

import codecs
import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.data.grids import Dialect
from cartas_mlflow.errors import DataError, SettingError
from cartas_mlflow.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

OUTPUT_SUFFIXES = (".csv", ".xlsx", ".jsonl", ".parquet")

EXCEL = Dialect(delimiter=";", encoding="utf-8", byte_order_mark=True, line_end="\r\n")
"""What a Brazilian Excel opens by a double click."""


def check_place(output: str, table: Path | None, what: str) -> None:
    """See that a table can be written there, before the work that fills it.

    Args:
        table: the one that is read; ``what``: what it is called.

    Raises:
        SettingError: the folder is not there, or the place is that of the table.
    """
    place = Path(output).resolve()
    if not place.parent.is_dir():
        raise SettingError(f"A pasta de --output {output} não existe; crie-a ou indique outra.")
    if table is not None and place == table.resolve():
        raise SettingError(f"--output {output} é {what}; indique outro arquivo.")


def write_table(table: pd.DataFrame, path: Path, dialect: Dialect = EXCEL) -> None:
    """Write a table in the format of the file's ending; the file is there whole, or as it was before.

    Args:
        dialect: of a csv; one whose encoding cannot hold the texts is written in UTF-8 with a byte order mark.

    Raises:
        DataError: a character that xlsx cannot hold, or a place that cannot be written.
    """
    content = _encode(table, path, dialect)
    try:
        write_bytes(path, content)
    except OSError as error:
        raise DataError(f"{path} não pôde ser gravado ({error.strerror}); indique outro --output.") from None


def _encode(table: pd.DataFrame, path: Path, dialect: Dialect) -> bytes:
    import pandas as pd
    from openpyxl.utils.exceptions import IllegalCharacterError

    kind, stream = path.suffix.lower(), io.BytesIO()
    if kind == ".csv":
        text = table.to_csv(index=False, sep=dialect.delimiter, lineterminator=dialect.line_end)
        return _in_encoding(text, dialect)
    if kind == ".jsonl":
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in table.to_dict("records")).encode()
    if kind == ".parquet":
        table.to_parquet(stream, index=False)
        return stream.getvalue()
    try:
        with pd.ExcelWriter(stream, engine="openpyxl") as book:
            table.to_excel(book, index=False)
            for cell in itertools.chain.from_iterable(book.book.active.iter_rows()):
                if cell.data_type == "f":  # a text that begins with "="
                    cell.data_type = "s"
    except IllegalCharacterError:
        raise DataError(f"{path}: há um caractere de controle que xlsx não guarda; grave como csv.") from None
    return stream.getvalue()


def _in_encoding(text: str, dialect: Dialect) -> bytes:
    try:
        content = text.encode(dialect.encoding)
    except UnicodeEncodeError:
        return text.encode("utf-8-sig")
    # The codecs named utf-16 and utf-32 write their mark themselves.
    marked = dialect.byte_order_mark and dialect.encoding == "utf-8"
    return codecs.BOM_UTF8 + content if marked else content
