"""More of what people send: other programs' spreadsheets, exports with ideas of their own, files that are no table."""

from __future__ import annotations

import datetime
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from cartas_mlflow.data.oddities import describe_oddities
from cartas_mlflow.data.records import Records, load_records
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import DataSettings

FIELDS = ("carta", "evento", "secao", "tema", "texto")
ROWS = [
    (card, occasion, section, theme, f"{card} na {occasion}: acredite em você, {theme.lower()} é só o começo.")
    for card in ("O Sol", "A Força")
    for occasion in ("Mudança", "Estação")
    for section in ("Luz", "Sombra")
    for theme in ("Família", "Coração")
]
Lines = Sequence[Sequence[Any]]
LINES: Lines = [FIELDS, *ROWS]
Write = Callable[[Path], None]


def read(path: Path, **settings: Any) -> Records:
    return load_records(DataSettings(path=str(path), **settings))


def told(records: Records) -> str:
    return "\n".join([*records.table.remarks, *describe_oddities(records)])


def text_file(content: str, encoding: str = "utf-8") -> Write:
    return lambda path: path.write_bytes(content.encode(encoding)) and None


def joined(separator: str = ",", end: str = "\n", lines: Lines = LINES) -> str:
    return "".join(separator.join(f'"{cell}"' for cell in line) + end for line in lines)


def xlsx(lines: Lines = LINES, change: Callable[[Workbook], None] = lambda book: None) -> Write:
    def write(path: Path) -> None:
        book = Workbook()
        for line in lines:
            book.active.append(list(line))
        change(book)
        book.save(path)

    return write


def old_xls(path: Path) -> None:
    import xlwt

    book = xlwt.Workbook()
    sheet = book.add_sheet("Leituras")
    for place, name in enumerate(FIELDS):
        sheet.write(0, place, name)
    for line, row in enumerate(ROWS, start=1):
        for place, cell in enumerate(row[1:], start=1):
            sheet.write(line, place, cell)
    for first in (1, 9):
        sheet.write_merge(first, first + 7, 0, 0, ROWS[first - 1][0])
    book.save(str(path))


def ods(lines: Lines = LINES, merged: Sequence[tuple[int, int, int]] = (), stray: bool = False) -> Write:
    """``merged``: (line, column, rows) counted from 0."""

    def write(path: Path) -> None:
        from odf.opendocument import OpenDocumentSpreadsheet
        from odf.table import CoveredTableCell, Table, TableCell, TableRow
        from odf.text import P

        document = OpenDocumentSpreadsheet()
        sheet = Table(name="Leituras")
        covered = {(line + n, column) for line, column, rows in merged for n in range(1, rows)}
        spans = {(line, column): rows for line, column, rows in merged}
        for number, line in enumerate(lines):
            row = TableRow()
            for column, value in enumerate(line):
                if (number, column) in covered:
                    row.addElement(CoveredTableCell())
                    continue
                options = {"numberrowsspanned": spans[number, column]} if (number, column) in spans else {}
                if isinstance(value, datetime.date):
                    cell = TableCell(valuetype="date", datevalue=value.isoformat(), **options)
                elif isinstance(value, float | int):
                    cell = TableCell(valuetype="float", value=str(value), **options)
                else:
                    cell = TableCell(valuetype="string", **options)
                for part in str(value).split("\n"):
                    cell.addElement(P(text=part))
                row.addElement(cell)
            sheet.addElement(row)
        if stray:
            sheet.addElement(TableRow(numberrowsrepeated=1_048_000))
            last = TableRow()
            last.addElement(TableCell(numbercolumnsrepeated=16_000))
            cell = TableCell(valuetype="string")
            cell.addElement(P(text="x"))
            last.addElement(cell)
            sheet.addElement(last)
        document.spreadsheet.addElement(sheet)
        document.save(str(path))

    return write


def header_over_two_rows(book: Workbook) -> None:
    sheet = book.active
    sheet.insert_rows(1)
    for column, title in ((1, "Carta"), (2, "Evento"), (3, "Sobre a leitura")):
        sheet.cell(1, column).value = title
    for column in (1, 2):
        sheet.cell(2, column).value = None
        sheet.merge_cells(start_row=1, end_row=2, start_column=column, end_column=column)
    sheet.merge_cells("C1:E1")


def mac_dates(book: Workbook) -> None:
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    book.epoch = CALENDAR_MAC_1904
    for row in range(2, len(LINES) + 1):
        book.active.cell(row, 2).value = datetime.datetime(2026, 8, 5)


def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(FIELDS)}
    table = {name: pa.array(cells).dictionary_encode() for name, cells in columns.items()}
    pq.write_table(pa.table(table), path)


ALIKE: dict[str, tuple[str, Write]] = {
    "xls with merged cards": ("t.xls", old_xls),
    "xls that is really a csv": ("t.xls", text_file(joined("\t"), "utf-16")),
    "ods": ("t.ods", ods()),
    "ods with merged cards": ("t.ods", ods(merged=[(1, 0, 8), (9, 0, 8)])),
    "ods with a stray cell": ("t.ods", ods(stray=True)),
    "a header over two rows": ("t.xlsx", xlsx(change=header_over_two_rows)),
    "parquet of categories": ("t.parquet", parquet),
    "a mark in the middle": ("t.csv", text_file(joined().replace('"A Força"', '"\ufeffA Força"', 1))),
    "a null in the middle": ("t.csv", text_file(joined().replace("Luz", "L\0uz", 1))),
    "trailing separators": ("t.csv", text_file(joined(";").replace("\n", ";;;\n"))),
    "empty rows everywhere": ("t.csv", text_file(joined().replace("\n", "\n,,,,\n\n"))),
    "a title with commas above a semicolon table": ("t.csv", text_file("Leituras, notas, etc., 2026\n" + joined(";"))),
    "hint line in UTF-16": ("t.csv", text_file("sep=\t\r\n" + joined("\t", "\r\n"), "utf-16")),
    "only old Mac line ends after a hint": ("t.csv", text_file("sep=;\r" + joined(";", "\r"))),
    "words around the columns": ("t.csv", text_file(joined(lines=[("Nº", *FIELDS, "Autora"), *(
        (str(number), *row, "Ana") for number, row in enumerate(ROWS)
    )]))),
    "jsonl with nested values beside": ("t.jsonl", text_file("\n".join(
        json.dumps({**dict(zip(FIELDS, row, strict=True)), "marcas": ["a", {"b": 1}]}) for row in ROWS
    ))),
    "jsonl with Windows line ends": ("t.jsonl", text_file("\r\n".join(
        json.dumps(dict(zip(FIELDS, row, strict=True)), ensure_ascii=False) for row in ROWS
    ), "utf-8-sig")),
    "jsonl with other spellings of the keys": ("t.jsonl", text_file("\n".join(
        json.dumps(dict(zip(("CARTA", "Ocasião", "Seção", " tema", "Texto"), row, strict=True))) for row in ROWS
    ))),
    "two columns of one name, one of them empty": ("t.csv", text_file(joined(lines=[(*FIELDS, "Tema"), *(
        (*row, "") for row in ROWS
    )]))),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write"), ALIKE.values(), ids=ALIKE.keys())
def test_it_is_read_like_a_plain_table(name: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / name)
    text_file(joined())(tmp_path / "plain.csv")
    assert read(tmp_path / name).rows == read(tmp_path / "plain.csv").rows


def occasion(value: Any) -> Lines:
    return [FIELDS, *((row[0], value, *row[2:]) for row in ROWS)]


VALUES: dict[str, tuple[str, Write, str, set[str]]] = {
    "dates of the 1904 calendar": ("t.xlsx", xlsx(change=mac_dates), "evento", {"05/08/2026"}),
    "dates in ods": (
        "t.ods",
        ods([FIELDS, *((row[0], datetime.date(2026, 8, 5), *row[2:]) for row in ROWS)]),
        "evento",
        {"05/08/2026"},
    ),
    "whole numbers in ods": ("t.ods", ods([FIELDS, *((5, *row[1:]) for row in ROWS)]), "carta", {"5"}),
    "line breaks in ods": ("t.ods", ods(occasion("Ano\nNovo")), "evento", {"Ano Novo"}),
    "times": ("t.xlsx", xlsx(occasion(datetime.time(14, 30))), "evento", {"14:30"}),
    "decimal numbers": ("t.xlsx", xlsx(occasion(2.5)), "evento", {"2,5"}),
    "numbers stored as text": ("t.xlsx", xlsx([FIELDS, *(("007", *row[1:]) for row in ROWS)]), "carta", {"007"}),
    "decimal commas between semicolons": (
        "t.csv",
        text_file(joined(";", lines=[FIELDS, *((row[0], "1,5", *row[2:]) for row in ROWS)]).replace('"', "")),
        "evento",
        {"1,5"},
    ),
    "line breaks inside quotes": (
        "t.csv",
        text_file(joined(lines=[FIELDS, *((row[0], "Ano\r\nNovo", *row[2:]) for row in ROWS)])),
        "evento",
        {"Ano Novo"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "field", "values"), VALUES.values(), ids=VALUES.keys())
def test_a_value_becomes_what_a_brazilian_would_write(
    name: str, write: Write, field: str, values: set[str], tmp_path: Path
) -> None:
    write(tmp_path / name)
    records = read(tmp_path / name)
    assert len(records.rows) == len(ROWS)
    assert {getattr(row, field) for row in records.rows} == values


def archive(**parts: str) -> Write:
    def write(path: Path) -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as target:
            for name, content in parts.items():
                target.writestr(name.replace("__", "/"), content)
        path.write_bytes(stream.getvalue())

    return write


def locked(path: Path) -> None:
    """An OLE container as Excel writes it for a workbook with a password: its directory names the encrypted package."""
    directory = "EncryptedPackage".encode("utf-16-le").ljust(64, b"\0")
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 504 + directory + b"\0" * 4000)


def far_xls(path: Path) -> None:
    """A damaged one: a record of cells that speaks of rows which are not there. calamine gives up with a panic."""
    old_xls(path)
    content = bytearray(path.read_bytes())
    start = content.find(b"\x09\x08")
    content[start + 4 : start + 600 : 7] = b"\xff" * len(content[start + 4 : start + 600 : 7])
    path.write_bytes(bytes(content))


XML_2003 = (
    '<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>\n<Workbook xmlns="urn:schemas-microsoft-com">'
)
NO_TABLE: dict[str, tuple[str, Write, str]] = {
    "nothing": ("t.csv", text_file(""), "está vazio"),
    "nothing, xlsx": ("t.xlsx", text_file(""), "está vazio"),
    "nulls only": ("t.csv", text_file("\0" * 500), "está vazio"),
    "an xls whose records lie": ("t.xls", far_xls, "não é uma planilha íntegra"),
    "folder": ("t.csv", Path.mkdir, "é uma pasta"),
    "PDF": ("t.xlsx", text_file("%PDF-1.7 xx"), "é um PDF"),
    "Word": ("t.docx", archive(word__document="x", **{"word__document.xml": "x"}), "Word"),
    "web page": ("t.xls", text_file("<html><body><table><tr><td>carta</td></tr></table></body></html>"), "página HTML"),
    "web page behind a comment": ("t.xls", text_file("\ufeff <!-- x -->\n<TABLE><tr><td>carta"), "página HTML"),
    "spreadsheet XML of 2003": ("t.xls", text_file(XML_2003), "XML"),
    "password": ("t.xlsx", locked, "senha"),
    "zip of a table": ("t.zip", archive(**{"cartas.csv": joined()}), "compactado"),
    "link to an online spreadsheet": (
        "t.gsheet",
        text_file('{"url": "https://docs.google.com/open?id=x", "doc_id": "x"}'),
        "atalho",
    ),
    "pointer of Git LFS": ("t.csv", text_file("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "lock file": ("~$t.xlsx", text_file("\x05maria" + " " * 40), "t.xlsx"),
    "unclosed quote": ("t.csv", text_file(joined() + '"O Sol","x'), "aspas"),
    "rows too wide": ("t.csv", text_file(joined() + '"a","b","c","d","e","f"\n'), "linha 18"),
    "a list of JSON numbers": ("t.json", text_file("[1, 2, 3]"), "JSON"),
    "JSON object": ("t.json", text_file('{"carta": 1}'), "não tem"),
    "JSON nested too deep": ("t.json", text_file("[" * 100_000), "JSON"),
    "half a parquet": ("t.parquet", text_file("PAR1xxxx"), "parquet"),
    "a zip that is none": ("t.xlsx", text_file("PK\x03\x04" + "x" * 300), "não é uma planilha"),
    "a picture": ("t.csv", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300)) and None, "imagem"),
    "random bytes": ("t.csv", lambda path: path.write_bytes(bytes(range(256)) * 20) and None, "binário"),
}


@pytest.mark.parametrize(("name", "write", "word"), NO_TABLE.values(), ids=NO_TABLE.keys())
def test_what_is_no_table_is_named_in_one_sentence(name: str, write: Write, word: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError) as refused:
        read(tmp_path / name)
    sentence = str(refused.value)
    assert word in sentence
    assert "\n" not in sentence
    assert len(sentence) < 700


@pytest.mark.parametrize("address", ["https://exemplo.com/t.csv", "s3://balde/t.csv", "HTTP://exemplo.com/t.csv"])
def test_an_address_is_to_be_downloaded_first(address: str) -> None:
    with pytest.raises(DataError, match="baixe"):
        read(Path(address))
