"""Text files (csv with any separator, jsonl, json) -> grids."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.data.decoding import decode
from cartas_mlflow.data.grids import Grid
from cartas_mlflow.errors import DataError

_HINT = re.compile(r'\A"?sep=(.)"?[^\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)
_SEPARATORS = ";,\t|"


def read_csv(path: Path, content: bytes, score: Callable[[list[list[Any]]], int]) -> Grid:
    """Cells of a delimited text; a row's line is the physical one it starts on.

    Args:
        score: how many wanted columns the first rows of a table have; of the possible separators the one with the
            highest score counts, and of equals the one that cuts most rows into the same number of cells.

    Raises:
        DataError: not text, or quotes that do not close.
    """
    text, notes = decode(path, content)
    hint = _HINT.match(text)
    skipped = 0
    if hint:
        text, skipped = text[hint.end() :], 1
    if not text.strip(f'{_SEPARATORS}" \r\n'):
        return Grid([])
    separator = hint[1] if hint else max(_SEPARATORS, key=lambda one: _fit(text, one, score))
    # Blanks between a separator and a quote: the quote opens a cell all the same.
    spaced = re.search(rf'(?:^|{re.escape(separator)})[ ]+"', text, re.MULTILINE) is not None
    try:
        rows = _parse(path, text, separator, spaced)
    except DataError:
        if not spaced:
            raise
        rows = _parse(path, text, separator, False)
    return Grid([(line + skipped, cells) for line, cells in rows], notes=notes)


def _fit(text: str, separator: str, score: Callable[[list[list[Any]]], int]) -> tuple[int, float, int]:
    start = text[:50_000]
    reader = csv.reader(io.StringIO(start, newline=""), delimiter=separator, skipinitialspace=True)
    rows: list[list[str]] = []
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                rows.append(cells)
            if len(rows) == 40:
                break
    except csv.Error:  # the sample ends inside a cell
        pass
    widths = [len(cells) for cells in rows]
    usual = max(set(widths), key=widths.count, default=0)
    steady = widths.count(usual) / max(1, len(widths)) if usual > 1 else 0.0
    return score(rows), round(steady, 1), usual


def _parse(path: Path, text: str, separator: str, spaced: bool) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced)
    rows, before = [], 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            if any(map(str.strip, cells)):
                rows.append((line, cells))
    except csv.Error:
        raise DataError(
            f"{path}, linha {before + 1}: as aspas do csv não fecham ou estão fora do lugar; corrija a linha."
        ) from None
    return rows


def read_jsonl(path: Path, content: bytes) -> Grid:
    """A JSON object per line, or one list of objects (numbered as in a spreadsheet: the first is row 2).

    Raises:
        DataError: a line that is no JSON object.
    """
    text, notes = decode(path, content)
    objects = _whole_list(text)
    if objects is None:
        objects = _objects_by_line(path, text)
    columns: dict[str, None] = {}
    for line, row in objects:
        if not isinstance(row, dict):
            raise DataError(f'{path}, linha {line}: deve ser um objeto JSON (ex.: {{"carta": "O Sol", …}}).')
        columns |= dict.fromkeys(row)
    rows = [(line, [row.get(column) for column in columns]) for line, row in objects]
    return Grid([(0, list(columns)), *rows], headed=True, notes=notes)


def _objects_by_line(path: Path, text: str) -> list[tuple[int, Any]]:
    objects = []
    for line, content in enumerate(re.split(r"\r\n|\r|\n", text), start=1):  # U+2028 may stand inside a JSON text
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is good JSON but no text
        except (ValueError, RecursionError):
            raise DataError(f"{path}, linha {line}: não é JSON válido; cada linha deve ser um objeto JSON.") from None
        if isinstance(row, dict):
            row = {clean_text(key): value for key, value in row.items()}
        objects.append((line, row))
    return objects


def _whole_list(text: str) -> list[tuple[int, Any]] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        rows = json.loads(text)
        json.dumps(rows, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(row, dict) for row in rows):
        return None
    return [(line, {clean_text(key): value for key, value in row.items()}) for line, row in enumerate(rows, start=2)]
