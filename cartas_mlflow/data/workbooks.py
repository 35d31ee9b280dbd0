"""Spreadsheet files (xlsx, xls, xlsb), read by calamine; what it leaves out of an xlsx is looked up in its XML."""

from __future__ import annotations

import io
import pickle
import posixpath
import re
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cartas_mlflow.data.cells import cell_text
from cartas_mlflow.data.grids import FORMULA, KINDS, Grid, damaged, locked
from cartas_mlflow.data.unfolding import LOCKED
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
_ZIP_DOCUMENTS = {
    "word/document.xml": "é um documento do Word",
    "ppt/presentation.xml": "é uma apresentação",
    "Index/Document.iwa": "é uma planilha do Numbers",
    "Index.zip": "é uma planilha do Numbers",
    "META-INF/container.xml": "é um livro (EPUB)",
}


@dataclass(frozen=True)
class _Part:
    """One sheet of an xlsx: the name of its part in the archive, and its XML."""

    name: str
    content: bytes


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
    content, parts = _without_stray_cells(content, parts)
    return [
        _grid(name, hidden, rows, merged, _defects(parts.get(name)))
        for name, hidden, rows, merged in _unfold(path, content)
    ]


def _unfold(path: Path, content: bytes) -> list[tuple[str, bool, list[list[Any]], list[Any]]]:
    """See :mod:`~cartas_mlflow.data.unfolding`, which runs in a process that may end as it likes."""
    program = [sys.executable, "-P", str(Path(__file__).with_name("unfolding.py"))]
    done = subprocess.run(program, input=content, capture_output=True, check=False)
    if done.returncode == LOCKED:
        raise locked(path)
    if done.returncode != 0:
        raise damaged(path)
    return pickle.loads(done.stdout)


def _grid(
    name: str, hidden: bool, rows: list[list[Any]], merged: Sequence[Any], defects: Mapping[tuple[int, int], str]
) -> Grid:
    for (top, left), (bottom, _) in merged:
        # Downwards only: a title merged over the columns is one cell, not a value of each of them.
        for line in range(top + 1, min(bottom + 1, len(rows))):
            if left < len(rows[line]) and rows[line][left] in ("", None):
                rows[line][left] = rows[top][left]
    kept = [(line, cells) for line, cells in enumerate(rows, start=1) if any(cell_text(c).strip() for c in cells)]
    return Grid(kept, name, hidden, defects=defects)


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
                        parts[sheet.get("name", "")] = _Part(name, archive.read(name))
            return parts
    except _BROKEN:
        return {}


def _without_stray_cells(content: bytes, parts: dict[str, _Part]) -> tuple[bytes, dict[str, _Part]]:
    """The same file without cells that stand so far from the others that reading up to them would fill the memory."""
    changed: dict[str, _Part] = {}
    for sheet, part in parts.items():
        places = [(int(row), _column(letters)) for letters, row in _CELL.findall(part.content)]
        if max((r for r, _ in places), default=0) * max((c for _, c in places), default=0) <= max(
            SMALL, SPARSE * len(places)
        ):
            continue
        rows, columns = Counter(r for r, _ in places), Counter(c for _, c in places)
        last_row = max((r for r, n in rows.items() if n > 1), default=min(rows))
        last_column = max((c for c, n in columns.items() if n > 1), default=min(columns))
        changed[sheet] = _Part(part.name, _cut(part.content, last_row, last_column))
    if not changed:
        return content, parts
    stream = io.BytesIO()
    new = {part.name: part.content for part in changed.values()}
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, new[name] if name in new else source.read(name))
    return stream.getvalue(), parts | changed


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


def _defects(part: _Part | None) -> dict[tuple[int, int], str]:
    """(line, place) -> the error that a cell shows, or that it is a formula nobody has computed."""
    if part is None or not (b't="e"' in part.content or re.search(rb"<(?:\w+:)?f[ >/]", part.content)):
        return {}
    found: dict[tuple[int, int], str] = {}
    for cell in _cells(part.content):
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


def _cells(content: bytes) -> Iterator[ElementTree.Element]:
    for _, element in ElementTree.iterparse(io.BytesIO(content)):
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
