"""Spreadsheet files (xlsx, xls, xlsb) -> grids."""

from __future__ import annotations

import io
import itertools
import re
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

from cartas_mlflow.data.grids import Grid, fill_merged
from cartas_mlflow.errors import DataError

_SPARSE = 1_000_000
"""Cells of a sheet's rectangle from which on it is looked at before it is unfolded in memory."""
_GAP_ROWS, _GAP_COLUMNS = 1000, 200
"""So many empty rows or columns end a table: what stands beyond is a stray cell."""
_LARGEST_PART = 1 << 30
_CELL = re.compile(rb"<(?:\w+:)?c\b([^>]*?)(/?)>")
_REFERENCE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
_ROW = re.compile(rb'<(\w+:)?row\b[^>]*?\br="(\d+)"[^>]*?(?:/>|>.*?</(?:\w+:)?row>)', re.DOTALL)
_VALUE = re.compile(rb"<(?:\w+:)?(?:v|is)>(?!\s*</)")


def read_workbook(path: Path, content: bytes, kind: str) -> list[Grid]:
    """Every sheet of cells, in the workbook's order.

    Args:
        kind: ``xlsx``, ``xls`` or ``xlsb``: what the content is.

    Raises:
        DataError: encrypted or damaged.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        parts, content = _look_into(path, content) if kind == "xlsx" else ({}, content)
        if kind == "xlsb":
            _refuse_stray_cells(path, content)
        grids = []
        with CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
            for sheet in book.sheets_metadata:
                if sheet.typ != SheetTypeEnum.WorkSheet:
                    continue
                page = book.get_sheet_by_name(sheet.name)
                rows = [
                    (line, cells)
                    for line, cells in enumerate(page.to_python(skip_empty_area=False), start=1)
                    if any(cell != "" for cell in cells)
                ]
                fill_merged(rows, page.merged_cell_ranges or [])
                look = parts.get(sheet.name, _Look())
                grids.append(
                    Grid(
                        rows,
                        sheet.name,
                        sheet.visible != SheetVisibleEnum.Visible,
                        errors=look.errors,
                        formulas=frozenset(look.formulas),
                        notes=tuple(look.notes),
                    )
                )
    except PasswordError:
        raise DataError(f"{path} está protegida por senha; abra-a, retire a senha e salve de novo.") from None
    except (CalamineError, zipfile.BadZipFile, zlib.error, ElementTree.ParseError, KeyError, ValueError, EOFError):
        raise DataError(f"{path} não é uma planilha {kind} íntegra; abra-a e salve de novo como xlsx.") from None
    except (NotImplementedError, RuntimeError, OSError):  # a compression or an encryption that zipfile does not have
        raise DataError(f"{path} não pôde ser aberta; abra-a e salve de novo como xlsx.") from None
    return grids


class _Look:
    """What calamine does not tell of a sheet: error cells, formulas without value, cells far from all others."""

    def __init__(self) -> None:
        self.errors: dict[tuple[int, int], str] = {}
        self.formulas: set[tuple[int, int]] = set()
        self.notes: list[str] = []


def _look_into(path: Path, content: bytes) -> tuple[dict[str, _Look], bytes]:
    """The looks by sheet name, and the file without its stray cells (unfolded, one alone can take all memory)."""
    looks, changed = {}, {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = {name.lower(): name for name in archive.namelist()}
        if any(part.file_size > _LARGEST_PART for part in archive.infolist()):
            raise DataError(f"{path} tem uma parte de mais de 1 GB; salve só a planilha das leituras num arquivo novo.")
        for sheet, part in _sheet_parts(archive, names).items():
            looks[sheet] = _Look()
            xml = archive.read(part)
            trimmed = _look_at(xml, looks[sheet])
            if trimmed is not xml:
                changed[part] = trimmed
        if not changed:
            return looks, content
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
            for name in archive.namelist():
                target.writestr(name, changed.get(name) or archive.read(name))
    return looks, stream.getvalue()


def _sheet_parts(archive: zipfile.ZipFile, names: dict[str, str]) -> dict[str, str]:
    """Sheet name -> its part in the archive, whichever namespaces the program used."""

    def local(attributes: dict[str, str]) -> dict[str, str]:
        return {name.rpartition("}")[2]: value for name, value in attributes.items()}

    relations = {}
    for element in ElementTree.fromstring(archive.read(names["xl/_rels/workbook.xml.rels"])):
        relations[element.get("Id")] = element.get("Target", "")
    parts = {}
    for element in ElementTree.fromstring(archive.read(names["xl/workbook.xml"])).iter():
        if element.tag.rpartition("}")[2] == "sheet":
            own = {**local(element.attrib)}
            target = relations.get(own.get("id", ""), "")
            part = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
            if part.lower() in names and "sheets/" in part:
                parts[own.get("name", "")] = names[part.lower()]
    return parts


def _look_at(xml: bytes, look: _Look) -> bytes:
    found = []
    cells = list(_CELL.finditer(xml))
    for number, cell in enumerate(cells):
        if cell[2] or not (reference := _REFERENCE.search(cell[1])):
            continue
        end = cells[number + 1].start() if number + 1 < len(cells) else len(xml)
        inside = xml[cell.end() : end]
        place = int(reference[2]), _column(reference[1])
        if b't="e"' in cell[1]:
            value = re.search(rb"<(?:\w+:)?v>([^<]*)<", inside)
            look.errors[place] = value[1].decode("utf-8", "replace") if value else "erro"
        elif re.search(rb"<(?:\w+:)?f[\s>/]", inside) and not _VALUE.search(inside) and b't="str"' not in cell[1]:
            look.formulas.add(place)
        found.append(place)
    if not found:
        return xml
    lines, columns = sorted({line for line, _ in found}), sorted({column for _, column in found})
    area = (lines[-1] - lines[0] + 1) * (columns[-1] - columns[0] + 1)
    if area < _SPARSE or area < 20 * len(found):
        return xml
    last_line, last_column = _end_of_table(lines, _GAP_ROWS), _end_of_table(columns, _GAP_COLUMNS)
    stray = [place for place in found if place[0] > last_line or place[1] > last_column]
    if stray:
        line, column = stray[0]
        look.notes.append(
            f"⚠️ {len(stray)} {'célula solta' if len(stray) == 1 else 'células soltas'} longe da tabela não "
            f"{'foi lida' if len(stray) == 1 else 'foram lidas'} (a primeira: {_letters(column)}{line})"
        )
    return _ROW.sub(lambda row: _keep(row, last_line, last_column), xml)


def _end_of_table(places: list[int], gap: int) -> int:
    return next((a for a, b in itertools.pairwise(places) if b - a > gap), places[-1])


def _keep(row: re.Match[bytes], last_line: int, last_column: int) -> bytes:
    if int(row[2]) > last_line:
        return b""
    cell = re.compile(rb'<(?:\w+:)?c\b[^>]*?\br="([A-Z]{1,3})\d+"[^>]*?(?:/>|>.*?</(?:\w+:)?c>)', re.DOTALL)
    return cell.sub(lambda own: own[0] if _column(own[1]) <= last_column else b"", row[0])


def _column(letters: bytes) -> int:
    """``A`` -> 0, ``AA`` -> 26."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1


def _letters(column: int) -> str:
    text, number = "", column + 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def _refuse_stray_cells(path: Path, content: bytes) -> None:
    """Records of BIFF12 ([MS-XLSB] 2.1.4): a type and a size of 7 bits per byte; row headers are 0, cells 1 to 11."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if not re.fullmatch(r"xl/worksheets/[^/]+\.bin", name):
                continue
            data, at, lines, columns, cells = archive.read(name), 0, set(), set(), 0
            while at < len(data):
                kind, at = _biff_number(data, at, 2)
                size, at = _biff_number(data, at, 4)
                if kind == 0:
                    line = int.from_bytes(data[at : at + 4], "little")
                elif 2 <= kind <= 11:
                    lines.add(line)
                    columns.add(int.from_bytes(data[at : at + 4], "little"))
                    cells += 1
                at += size
            area = (max(lines) + 1) * (max(columns) + 1) if cells else 0
            if area > 20 * _SPARSE and area > 20 * cells:
                raise DataError(f"{path} tem células soltas muito longe da tabela; apague-as, ou salve como xlsx.")


def _biff_number(data: bytes, at: int, longest: int) -> tuple[int, int]:
    number = 0
    for place in range(longest):
        byte = data[at] if at < len(data) else 0
        at += 1
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    return number, at
