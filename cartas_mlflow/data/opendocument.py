"""OpenDocument spreadsheets (ods) -> grids.

calamine reads them too, but unfolds every repetition (one cell in the last column of 1,000 rows: 1 GB) and knows no
merged cells of theirs.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cartas_mlflow.data.grids import FORMULA, Grid, damaged, locked
from cartas_mlflow.errors import DataError

_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_WIDEST, _TALLEST = 500, 200_000
"""Columns and repeated rows beyond these hold stray cells only."""


def read_opendocument(path: Path, content: bytes) -> list[Grid]:
    """Every sheet, in the document's order.

    Raises:
        DataError: encrypted or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if b"encryption-data" in archive.read("META-INF/manifest.xml"):
                raise locked(path)
            document = ElementTree.fromstring(archive.read("content.xml"))
        hidden = {
            style.get(f"{_STYLE}name")
            for style in document.iter(f"{_STYLE}style")
            for properties in style.iter(f"{_STYLE}table-properties")
            if properties.get(f"{_TABLE}display") == "false"
        }
        return [_read_sheet(sheet, hidden) for sheet in document.iter(f"{_TABLE}table")]
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, KeyError, ValueError, EOFError):
        raise damaged(path) from None
    except (NotImplementedError, RuntimeError, OSError):
        raise DataError(f"{path} não pôde ser aberta; abra-a e salve de novo como xlsx.") from None


def _read_sheet(sheet: ElementTree.Element, hidden: set[str | None]) -> Grid:
    rows: list[tuple[int, list[Any]]] = []
    merged: dict[tuple[int, int], int] = {}
    defects: dict[tuple[int, int], str] = {}
    line = 1
    for row in sheet.iter(f"{_TABLE}table-row"):
        cells: list[Any] = []
        for cell in row:
            if cell.tag not in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
                continue
            value = _value(cell)
            span = int(cell.get(f"{_TABLE}number-rows-spanned", 1))
            if span > 1 and len(cells) < _WIDEST:
                merged[line, len(cells)] = span
            if value is None and cell.get(f"{_TABLE}formula"):
                defects[line, len(cells)] = FORMULA
            room = _WIDEST - len(cells)
            cells.extend([value] * max(0, min(room, int(cell.get(f"{_TABLE}number-columns-repeated", 1)))))
        while cells and cells[-1] in (None, ""):
            cells.pop()
        times = int(row.get(f"{_TABLE}number-rows-repeated", 1))
        if cells or any(place[0] == line for place in defects):
            rows.extend((line + again, list(cells)) for again in range(min(times, _TALLEST)))
        line += times
    for (top, column), span in merged.items():
        for below, cells in rows:
            if top < below < top + span:
                cells.extend([None] * (column + 1 - len(cells)))
                cells[column] = next((cells[column] for line, cells in rows if line == top), None)
    return Grid(rows, sheet.get(f"{_TABLE}name", ""), sheet.get(f"{_TABLE}style-name") in hidden, defects=defects)


def _value(cell: ElementTree.Element) -> Any:
    kind = cell.get(f"{_OFFICE}value-type")
    if kind in ("float", "currency", "percentage"):
        return float(cell.get(f"{_OFFICE}value", "nan"))
    if kind == "date":
        text = cell.get(f"{_OFFICE}date-value", "")
        return datetime.fromisoformat(text) if "T" in text else date.fromisoformat(text)
    if kind == "boolean":
        return cell.get(f"{_OFFICE}boolean-value") == "true"
    paragraphs = ["".join(_texts(paragraph)) for paragraph in cell.findall(f"{_TEXT}p")]
    return "\n".join(paragraphs) or None


def _texts(element: ElementTree.Element) -> Iterator[str]:
    """The text of a paragraph with its spans; notes and annotations are not part of it."""
    yield element.text or ""
    for child in element:
        if child.tag in (f"{_TEXT}s", f"{_TEXT}tab", f"{_TEXT}line-break"):
            yield " "
        elif child.tag.startswith(_TEXT) and child.tag != f"{_TEXT}note":
            yield from _texts(child)
        yield child.tail or ""
