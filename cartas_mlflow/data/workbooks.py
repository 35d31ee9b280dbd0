"""Spreadsheet files (xlsx, xls, xlsb), read by calamine; what it leaves out of an xlsx is looked up in its XML."""

from __future__ import annotations

import io
import os
import pickle
import posixpath
import re
import subprocess
import sys
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from cartas_mlflow.data.grids import FORMULA, KINDS, PIECE, Grid, Row, Rows, damaged, holds_text, locked
from cartas_mlflow.data.unfolding import INDEX_SIZE, LOCKED
from cartas_mlflow.errors import DataError

SPARSE = 20
"""Places up to the last cell per cell: from here on a few cells stand far away, and calamine would hold every place."""
SMALL = 200_000
"""Places that are held in any case."""
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ElementTree.ParseError,
    KeyError,
    ValueError,
    OSError,
    RuntimeError,
)
"""RuntimeError: a part with a password, or packed in a way that zipfile does not know."""
_WORKBOOK_PARTS = ("xl/", "content.xml", "mimetype", "[Content_Types]")
_CELL = re.compile(rb'<(?:\w+:)?c [^>]*?r="([A-Z]{1,3})(\d{1,7})"')
_FORMULA = re.compile(rb"<(?:\w+:)?f[ >/]")
_ZIP_DOCUMENTS = {
    "word/document.xml": "é um documento do Word",
    "ppt/presentation.xml": "é uma apresentação",
    "Index/Document.iwa": "é uma planilha do Numbers",
    "Index.zip": "é uma planilha do Numbers",
    "META-INF/container.xml": "é um livro (EPUB)",
}


@dataclass(frozen=True)
class _Part:
    """The XML of one sheet of an xlsx: its name in the archive, cells, and the last ones' row and column (from 1)."""

    name: str
    cells: int
    last: tuple[int, int]
    defects: bool
    """Whether it has errors or formulas."""


class _Unfolded:
    """What :mod:`~cartas_mlflow.data.unfolding` wrote: a temporary file, as long as somebody may read its rows."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        program = [sys.executable, "-P", str(Path(__file__).with_name("unfolding.py"))]
        done = subprocess.run(program, input=content, stdout=self._file, stderr=subprocess.DEVNULL, check=False)
        if done.returncode == LOCKED:
            raise locked(path)
        if done.returncode != 0:
            raise damaged(path)
        self._file.seek(-INDEX_SIZE, os.SEEK_END)
        self._file.seek(int.from_bytes(self._file.read(INDEX_SIZE), "big"))
        self.sheets: list[tuple[str, bool, int]] = pickle.load(self._file)
        """(name, hidden, place of its rows)."""

    def rows(self, place: int) -> Iterator[Row]:
        """The rows of a sheet; others may be read in between."""
        while True:
            self._file.seek(place)
            chunk = pickle.load(self._file)
            if chunk is None:
                return
            place = self._file.tell()
            yield from (row for row in chunk if holds_text(row[1]))


def read_workbook(path: Path, content: bytes) -> list[Grid]:
    """The sheets that hold cells, in their order.

    Raises:
        DataError: a damaged file, one locked by a password, or a document of another kind.
    """
    _refuse_other_documents(path, content)
    if b"opendocument.spreadsheet" in content[:200]:  # its first part, stored as it is, says what the archive is
        from cartas_mlflow.data.opendocument import read_opendocument

        return read_opendocument(path, content)
    parts = _sheet_parts(content)
    content = _without_stray_cells(content, parts.values())
    unfolded = _Unfolded(path, content)
    return [
        Grid(Rows(partial(unfolded.rows, place)), name, hidden, defects=_defects(content, parts.get(name)))
        for name, hidden, place in unfolded.sheets
    ]


def _refuse_other_documents(path: Path, content: bytes) -> None:
    if not content.startswith(b"PK"):
        if "EncryptedPackage".encode("utf-16-le") in content:
            raise locked(path)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except _BROKEN:
        raise damaged(path) from None
    what = next((what for name, what in _ZIP_DOCUMENTS.items() if name in names), None)
    if what is None and not any(name.startswith(_WORKBOOK_PARTS) for name in names):
        inside = next((name for name in names if not name.endswith("/")), None)
        what = "é um arquivo compactado" + (f" (com {inside})" if inside else "")
    if what is not None:
        raise DataError(f"{path} {what}, não uma tabela; exporte-a, ou indique em data.path um arquivo {KINDS}.")


def _sheet_parts(content: bytes) -> dict[str, _Part]:
    """Sheet's name -> its XML, of an xlsx; nothing for the other kinds, and where the file's own table is unusual."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
            relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
            targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
            parts: dict[str, _Part] = {}
            for sheet in book.iter():
                target = targets.get(next((v for k, v in sheet.attrib.items() if k.endswith("}id")), None))
                if _tag(sheet) == "sheet" and target:
                    name = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"xl/{target}")
                    if name in archive.namelist():
                        parts[sheet.get("name", "")] = _look_through(archive, name)
            return parts
    except _BROKEN:
        return {}


def _look_through(archive: zipfile.ZipFile, name: str) -> _Part:
    cells, last_row, last_column, defects, rest = 0, 0, b"", False, b""
    with archive.open(name) as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            text = rest + piece
            end = max(text.rfind(b"<"), 0)  # a tag that goes on in the next piece is looked at there
            text, rest = text[:end], text[end:]
            found = _CELL.findall(text)
            cells += len(found)
            last_row = max(last_row, max((int(row) for _, row in found), default=0))
            last_column = max(last_column, *(letters for letters, _ in found), key=_column) if found else last_column
            defects = defects or b't="e"' in text or _FORMULA.search(text) is not None
    return _Part(name, cells, (last_row, _column(last_column)), defects)


def _without_stray_cells(content: bytes, parts: Iterable[_Part]) -> bytes:
    """The same file without cells that stand so far from the others that reading up to them would fill the memory."""
    stray = [part for part in parts if part.last[0] * part.last[1] > max(SMALL, SPARSE * part.cells)]
    if not stray:
        return content
    stream, names = io.BytesIO(), {part.name for part in stray}
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            sheet = source.read(name)
            target.writestr(name, _without_far_cells(sheet) if name in names else sheet)
    return stream.getvalue()


def _without_far_cells(sheet: bytes) -> bytes:
    places = [(int(row), _column(letters)) for letters, row in _CELL.findall(sheet)]
    rows, columns = Counter(r for r, _ in places), Counter(c for _, c in places)
    last_row = max((r for r, n in rows.items() if n > 1), default=min(rows))
    last_column = max((c for c, n in columns.items() if n > 1), default=min(columns))
    return _cut(sheet, last_row, last_column)


def _cut(content: bytes, last_row: int, last_column: int) -> bytes:
    tree = ElementTree.fromstring(content)
    for row in [element for element in tree.iter() if _tag(element) == "row"]:
        for cell in list(row):
            place = _place(cell)
            if place is not None and (place[0] > last_row or place[1] > last_column):
                row.remove(cell)
    for size in [element for element in tree.iter() if _tag(element) == "dimension"]:
        size.set("ref", "A1")
    return ElementTree.tostring(tree)


def _defects(content: bytes, part: _Part | None) -> dict[tuple[int, int], str]:
    """(line, place) -> the error that a cell shows, or that it is a formula nobody has computed."""
    if part is None or not part.defects:
        return {}
    found: dict[tuple[int, int], str] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(part.name) as file:
        for cell in _cells(file):
            place = _place(cell)
            if place is None:
                continue
            value = next((child.text for child in cell if _tag(child) == "v"), None)
            key = place[0], place[1] - 1
            if cell.get("t") == "e":
                found[key] = value or "#N/A"
            elif value is None and any(_tag(child) == "f" for child in cell):
                found[key] = FORMULA
    return found


def _cells(sheet: IO[bytes]) -> Iterator[ElementTree.Element]:
    for _, element in ElementTree.iterparse(sheet):
        if _tag(element) == "c":
            yield element
        elif _tag(element) == "row":
            element.clear()


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _place(cell: ElementTree.Element) -> tuple[int, int] | None:
    """(row, column) of a cell, from 1; None where it does not tell."""
    found = re.fullmatch(r"([A-Z]{1,3})(\d{1,7})", cell.get("r", ""))
    return None if found is None else (int(found[2]), _column(found[1].encode()))


def _column(letters: bytes) -> int:
    """``A`` -> 1, ``XFD`` -> 16384."""
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number
