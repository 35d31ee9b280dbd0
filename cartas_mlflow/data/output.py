"""A table into a file: csv, xlsx, jsonl or parquet, whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

OUTPUT_SUFFIXES = (".csv", ".xlsx", ".jsonl", ".parquet")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the file's ending; the file is there whole, or as it was before.

    Raises:
        DataError: a character that xlsx cannot hold, or a place that cannot be written.
    """
    content = _encode(table, path)
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise DataError(f"{path} não pôde ser gravado ({error.strerror}); indique outro --output.") from None
    finally:
        aside.unlink(missing_ok=True)


def _encode(table: pd.DataFrame, path: Path) -> bytes:
    import pandas as pd
    from openpyxl.utils.exceptions import IllegalCharacterError

    kind, stream = path.suffix.lower(), io.BytesIO()
    if kind == ".csv":
        return table.to_csv(index=False).encode()
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
