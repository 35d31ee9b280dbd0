"""Tables as people really send them: each gives the same readings as a plain one, and says what was odd."""

from __future__ import annotations

import datetime
import io
import json
import re
import time
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
Rows = Sequence[dict[str, str]]
Write = Callable[[Path, Rows], None]


@pytest.fixture(scope="module")
def rows(bundled_rows: list[dict[str, str]]) -> Rows:
    """Two cards, 24 readings."""
    return bundled_rows[:12] + bundled_rows[21:33]


def cells(rows: Rows, fields: Sequence[str] = FIELDS) -> list[list[str]]:
    return [[row[field] for field in fields] for row in rows]


def text(lines: Sequence[Sequence[str]], delimiter: str = ",", end: str = "\n") -> str:
    quoted = (delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)
    return "".join(line + end for line in quoted)


def csv_file(encoding: str = "utf-8", before: str = "", header: Sequence[str] = FIELDS, **how: str) -> Write:
    def write(path: Path, rows: Rows) -> None:
        path.write_bytes((before + text([header, *cells(rows)], **how)).encode(encoding))

    return write


def book(*sheets: tuple[str, str, Sequence[Sequence[Any]]]) -> Workbook:
    """(title, state, lines) -> workbook."""
    made = Workbook()
    made.remove(made.active)
    for title, state, lines in sheets:
        sheet = made.create_sheet(title)
        sheet.sheet_state = state
        for line in lines:
            sheet.append(list(line))
    made.active = next(place for place, sheet in enumerate(made.worksheets) if sheet.sheet_state == "visible")
    return made


def xlsx(
    arrange: Callable[[list[list[Any]]], list[tuple[str, str, list[list[Any]]]]],
    change: Callable[[Workbook], None] = lambda made: None,
) -> Write:
    """``arrange``: header and rows -> sheets; ``change``: the finished workbook."""

    def write(path: Path, rows: Rows) -> None:
        made = book(*arrange([list(FIELDS), *cells(rows)]))
        change(made)
        made.save(path)

    return write


def one(lines: list[list[Any]]) -> list[tuple[str, str, list[list[Any]]]]:
    return [("Leituras", "visible", lines)]


def shifted(lines: list[list[Any]], down: int, right: int) -> list[tuple[str, str, list[list[Any]]]]:
    return one([["Minhas leituras"]] + [[]] * (down - 1) + [[None] * right + line for line in lines])


def merge_cards(made: Workbook) -> None:
    sheet = made.active
    for first in (2, 14):
        for row in range(first + 1, first + 12):
            sheet.cell(row, 1).value = None
        sheet.merge_cells(start_row=first, end_row=first + 11, start_column=1, end_column=1)


def merge_two_columns(made: Workbook) -> None:
    merge_cards(made)
    sheet = made.active
    for first in range(2, 26, 3):
        if len({sheet.cell(row, 2).value for row in range(first, first + 3)}) == 1:
            for row in (first + 1, first + 2):
                sheet.cell(row, 2).value = None
            sheet.merge_cells(start_row=first, end_row=first + 2, start_column=2, end_column=2)


def stray(place: str) -> Callable[[Workbook], None]:
    def change(made: Workbook) -> None:
        made.active[place] = "x"

    return change


def escaped_breaks(path: Path, rows: Rows) -> None:
    lines = [[*line[:4], line[4].replace(". ", "._x000D_\n", 1)] for line in cells(rows)]
    book(*one([list(FIELDS), *lines])).save(path)


def strict(path: Path, rows: Rows) -> None:
    book(*one([list(FIELDS), *cells(rows)])).save(path)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    swaps = ((main, "http://purl.oclc.org/ooxml/spreadsheetml/main"),)
    swaps += ((relations, "http://purl.oclc.org/ooxml/officeDocument/relationships"),)
    rewrite(path, swaps)


def rewrite(path: Path, swaps: Sequence[tuple[str, str]]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            content = source.read(name).decode("utf-8")
            for old, new in swaps:
                content = content.replace(old, new)
            target.writestr(name, content)
    path.write_bytes(stream.getvalue())


def ods(path: Path, rows: Rows) -> None:
    import pandas as pd

    with pd.ExcelWriter(path, engine="odf") as writer:
        pd.DataFrame({"Capa": ["não mexer"]}).to_excel(writer, sheet_name="Capa", index=False)
        pd.DataFrame(cells(rows), columns=list(FIELDS)).to_excel(writer, sheet_name="Leituras", index=False)


def xls(path: Path, rows: Rows) -> None:
    import xlwt

    made = xlwt.Workbook()
    sheet = made.add_sheet("Leituras")
    for line, values in enumerate([FIELDS, *cells(rows)]):
        for place, value in enumerate(values):
            sheet.write(line + 2, place + 1, value)
    made.save(str(path))


def form(path: Path, rows: Rows) -> None:
    header = ["Carimbo de data/hora", "TEMA", "Seção", "Carta", "Evento", "Texto ", ""]
    broken = [{**row, "texto": row["texto"].replace(". ", ".\n", 1)} for row in rows]
    lines = [["05/03/2026", *line, ""] for line in cells(broken, ("tema", "secao", "carta", "evento", "texto"))]
    path.write_text(text([header, *lines]) + ",,,,,,\n" * 15, encoding="utf-8")


def json_array(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps([{field: row[field] for field in FIELDS} for row in rows], indent=1), encoding="utf-8")


def invisible(path: Path, rows: Rows) -> None:
    content = text([FIELDS, *cells(rows)]).replace("carta", "\u200bcarta", 1).replace("O Louco", "O Louco\u200b", 1)
    content = content.replace("O Louco", "\u2066O Louco\u2069", 5).replace(" ", "\u00a0", 40)
    path.write_text("\ufeff\ufeff" + content.replace("você", "vo\u00adcê", 3), encoding="utf-8")


def other_titles(*titles: str) -> Write:
    return csv_file(header=titles)


ALIKE: dict[str, tuple[str, Write, list[str]]] = {
    # how a text is written
    "plain": ("t.csv", csv_file(), []),
    "semicolon": ("t.csv", csv_file(delimiter=";", end="\r\n"), []),
    "tabs": ("t.tsv", csv_file(delimiter="\t"), []),
    "tabs called txt": ("t.txt", csv_file(delimiter="\t"), []),
    "bars": ("t.csv", csv_file(delimiter="|"), []),
    "a space after each comma": ("t.csv", csv_file(delimiter=", "), []),
    "hint line": (
        "t.csv",
        csv_file("utf-8-sig", before="sep=;\r\n", delimiter=";", end="\r\n"),
        ["Cabeçalho na linha 2"],
    ),
    "quoted hint line": ("t.csv", csv_file(before='"sep=;"\n', delimiter=";"), ["Cabeçalho na linha 2"]),
    "old Mac line ends": ("t.csv", csv_file(end="\r"), []),
    "no ending": ("tabela", csv_file(), []),
    "capital ending": ("T.CSV", csv_file(), []),
    "UTF-8 with a mark": ("t.csv", csv_file("utf-8-sig"), []),
    "UTF-16 with a mark": ("t.csv", csv_file("utf-16", delimiter="\t"), []),
    "UTF-16 little without a mark": ("t.csv", csv_file("utf-16-le", delimiter=";"), []),
    "UTF-16 big without a mark": ("t.csv", csv_file("utf-16-be"), []),
    "UTF-32": ("t.csv", csv_file("utf-32"), []),
    "Windows-1252": (
        "t.csv",
        csv_file("cp1252", delimiter=";", end="\r\n"),
        ["O arquivo não está em UTF-8; foi lido como Windows-1252 (lê-se assim: "],
    ),
    "Mac Roman": (
        "t.csv",
        csv_file("mac_roman"),
        ["O arquivo não está em UTF-8; foi lido como Mac Roman (lê-se assim: "],
    ),
    "DOS": ("t.csv", csv_file("cp850"), ["O arquivo não está em UTF-8; foi lido como DOS (CP850) (lê-se assim: "]),
    "form": ("t.csv", form, []),
    "invisible characters": ("t.csv", invisible, []),
    "title above the header": ("t.csv", csv_file(before="Minhas leituras - 2026\n\n"), ["Cabeçalho na linha 3"]),
    "JSON array": ("t.json", json_array, []),
    "JSON array called jsonl": ("t.jsonl", json_array, []),
    # columns
    "other names": (
        "t.csv",
        other_titles("Arcano", "Quando", "Parte", "Assunto", "Leitura"),
        ["Colunas entendidas: carta = Arcano, evento = Quando, secao = Parte, tema = Assunto, texto = Leitura"],
    ),
    "names in sentences": (
        "t.csv",
        other_titles(
            "1. Qual é a carta?", "Ocasião da leitura", "Seção (luz/sombra)", "Tema da carta", "Texto da leitura"
        ),
        [
            "Colunas entendidas: carta = 1. Qual é a carta?, evento = Ocasião da leitura, secao = Seção (luz/sombra), "
            "tema = Tema da carta, texto = Texto da leitura"
        ],
    ),
    "capital letters and accents": ("t.csv", other_titles("CARTA", "Évento", "SEÇÃO", " Tema:", "*texto*"), []),
    "a mark for required": ("t.csv", other_titles("Carta *", "Evento *", "Seção *", "Tema *", "Texto *"), []),
    # spreadsheets
    "sheet": ("t.xlsx", xlsx(one), []),
    "sheet called csv": ("t.csv", xlsx(one), []),
    "csv called xlsx": ("t.xlsx", csv_file(), []),
    "strict": ("t.xlsx", strict, []),
    "ods behind a cover": ("t.ods", ods, ["Planilha lida: Leituras"]),
    "xls with an offset": ("t.xls", xls, ["Cabeçalho na linha 3"]),
    "title": ("t.xlsx", xlsx(lambda lines: shifted(lines, 2, 0)), ["Cabeçalho na linha 3"]),
    "far down and to the right": ("t.xlsx", xlsx(lambda lines: shifted(lines, 15, 3)), ["Cabeçalho na linha 16"]),
    "cover first": (
        "t.xlsx",
        xlsx(lambda lines: [("Capa", "visible", [["Instruções: não mexer"]]), ("Leituras ", "visible", lines)]),
        ["Planilha lida: Leituras"],
    ),
    "hidden first": (
        "t.xlsx",
        xlsx(lambda lines: [("Listas", "hidden", [["Listas"]]), ("Leituras", "visible", lines)]),
        ["Planilha lida: Leituras"],
    ),
    "the table itself hidden": (
        "t.xlsx",
        xlsx(lambda lines: [("Capa", "visible", [["x"]]), ("Dados", "veryHidden", lines)]),
        ["Planilha lida: Dados (oculta)"],
    ),
    "two sheets with the columns": (
        "t.xlsx",
        xlsx(
            lambda lines: [
                ("Velha", "hidden", lines[:3]),
                ("2026", "visible", lines),
                ("2025", "visible", lines[:4]),
            ]
        ),
        ["Planilha lida: 2026; para outra, data.sheet: 2025, Velha"],
    ),
    "an empty sheet first": (
        "t.xlsx",
        xlsx(lambda lines: [("Plan1", "visible", []), ("Plan2", "visible", lines)]),
        [],
    ),
    "merged cards": ("t.xlsx", xlsx(one, merge_cards), []),
    "merged in two columns": ("t.xlsx", xlsx(one, merge_two_columns), []),
    "a title merged over the columns": (
        "t.xlsx",
        xlsx(lambda lines: shifted(lines, 2, 0), lambda made: made.active.merge_cells("A1:E1")),
        ["Cabeçalho na linha 3"],
    ),
    "a stray cell in the last row": ("t.xlsx", xlsx(one, stray("A1048576")), []),
    "a stray cell in the last column": ("t.xlsx", xlsx(one, stray("XFD3")), []),
    "a stray cell in the last corner": ("t.xlsx", xlsx(one, stray("XFD1048576")), []),
    "a note beside the table": ("t.xlsx", xlsx(one, stray("H40")), []),
    "escaped line breaks": ("t.xlsx", escaped_breaks, []),
    "header again in the middle": ("t.xlsx", xlsx(lambda lines: one([*lines[:9], lines[0], *lines[9:]])), []),
}


def read(path: Path, **settings: Any) -> Records:
    return load_records(DataSettings(path=str(path), **settings))


@pytest.mark.parametrize(("name", "write", "remarks"), ALIKE.values(), ids=ALIKE.keys())
def test_it_gives_the_readings_of_a_plain_table(
    name: str, write: Write, remarks: list[str], rows: Rows, tmp_path: Path
) -> None:
    csv_file()(tmp_path / "plain.csv", rows)
    write(tmp_path / name, rows)
    started = time.process_time()
    records = read(tmp_path / name)
    assert time.process_time() - started < 5
    assert records.rows == read(tmp_path / "plain.csv").rows
    assert len(records.rows) == len(rows)
    said = list(records.table.remarks)
    assert [line[: len(start)] for line, start in zip(said, remarks, strict=True)] == remarks


def set_cells(**values: Any) -> Callable[[Workbook], None]:
    def change(made: Workbook) -> None:
        for place, value in values.items():
            made.active[place] = value

    return change


def dates_and_numbers(made: Workbook) -> None:
    for row in range(2, 26):
        made.active.cell(row, 1).value = 1 if row < 14 else 2
        made.active.cell(row, 2).value = datetime.datetime(2026, row % 12 + 1, 5)


LESS: dict[str, tuple[str, Write, int, list[str]]] = {
    "error cells": (
        "t.xlsx",
        xlsx(one, set_cells(E5="#N/A", D9="#REF!")),
        22,
        ["2 linhas descartadas por erro da planilha (linha 5, coluna texto: #N/A; linha 9, coluna tema: #REF!)"],
    ),
    "error words in a csv": (
        "t.csv",
        lambda path, rows: csv_file()(path, [{**rows[0], "texto": "#N/D"}, {**rows[1], "tema": "#VALOR!"}, *rows[2:]]),
        22,
        ["2 linhas descartadas por erro da planilha (linha 2, coluna texto: #N/D; linha 3, coluna tema: #VALOR!)"],
    ),
    "some formulas without values": (
        "t.xlsx",
        xlsx(one, set_cells(E5='="a"&"b"', E6="=A1")),
        22,
        [
            "2 linhas descartadas por erro da planilha (linha 5, coluna texto: fórmula sem valor; linha 6, coluna "
            "texto: fórmula sem valor)"
        ],
    ),
    "a row of totals": (
        "t.xlsx",
        xlsx(lambda lines: one([*lines, ["Total", 24]])),
        24,
        [
            "1 linha descartada por célula vazia (a primeira: linha 26, coluna secao)",
            "evento: há números (1 célula), que o modelo lê como texto (ex.: 24)",
        ],
    ),
    "a section's title across the table": (
        "t.xlsx",
        xlsx(lambda lines: one([*lines[:9], ["Parte 2"], *lines[9:]]), lambda made: made.active.merge_cells("A10:E10")),
        24,
        ["1 linha descartada por célula vazia (a primeira: linha 10, coluna evento)"],
    ),
    "a header in the middle": (
        "t.csv",
        lambda path, rows: csv_file()(path, [*rows[:5], {field: field for field in FIELDS}, *rows[5:]]),
        24,
        ["Cabeçalho repetido no meio da tabela, deixado de lado (linha 7)"],
    ),
    "dates and numbers for words": (
        "t.xlsx",
        xlsx(one, dates_and_numbers),
        24,
        [
            "carta: há números (24 células), que o modelo lê como texto (ex.: 1)",
            "evento: há datas (24 células), que o modelo lê como texto (ex.: 05/03/2026)",
        ],
    ),
    "dates and numbers that a program exported": (
        "t.csv",
        lambda path, rows: csv_file()(path, [{**row, "carta": "5.0", "evento": "2026-08-05 00:00:00"} for row in rows]),
        24,
        [
            "carta: há números (24 células), que o modelo lê como texto (ex.: 5)",
            "evento: há datas (24 células), que o modelo lê como texto (ex.: 05/08/2026)",
        ],
    ),
    "other spellings": (
        "t.csv",
        lambda path, rows: csv_file()(path, [*rows[:3], {**rows[3], "carta": "o louco"}, *rows[4:]]),
        24,
        ["carta: grafias diferentes da mesma palavra, unidas (o louco = O Louco)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "left", "said"), LESS.values(), ids=LESS.keys())
def test_what_is_left_out_or_changed_is_told(
    name: str, write: Write, left: int, said: list[str], rows: Rows, tmp_path: Path
) -> None:
    write(tmp_path / name, rows)
    records = read(tmp_path / name)
    assert len(records.rows) == left
    assert list(describe_oddities(records)) == said
    texts = [" ".join((*row.fields(), row.texto)) for row in records.rows]
    assert not [text for text in texts if re.search(r"#N/|00:00:00|\.0\b|fórmula", text)]


def all_formulas(made: Workbook) -> None:
    for row in range(2, 26):
        made.active.cell(row, 5).value = '="texto"&""'


REFUSED: dict[str, tuple[str, Write, dict[str, Any], str]] = {
    "nothing but formulas": (
        "t.xlsx",
        xlsx(one, all_formulas),
        {},
        "t.xlsx: a coluna texto tem fórmulas que ainda não foram calculadas (24 células, a partir da linha 2); abra o "
        "arquivo no Excel ou no LibreOffice, salve-o e tente de novo.",
    ),
    "a sheet that is not there": (
        "t.xlsx",
        xlsx(lambda lines: [("Leituras", "visible", lines), ("Velha", "hidden", lines)]),
        {"sheet": "Plan2"},
        "t.xlsx não tem a planilha Plan2; escolha data.sheet entre: Leituras, Velha (oculta).",
    ),
    "a sheet of a csv": ("t.csv", csv_file(), {"sheet": "Plan2"}, "t.csv não tem a planilha Plan2; retire data.sheet."),
    "locked by a password": (
        "t.xlsx",
        lambda path, rows: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 4000),
        {},
        "t.xlsx não é uma planilha íntegra; abra-a e salve de novo como xlsx.",
    ),
}


@pytest.mark.parametrize(("name", "write", "settings", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_one_sentence(
    name: str, write: Write, settings: dict[str, Any], sentence: str, rows: Rows, tmp_path: Path
) -> None:
    write(tmp_path / name, rows)
    with pytest.raises(DataError) as refused:
        read(tmp_path / name, **settings)
    assert str(refused.value) == f"{tmp_path}/{sentence}"


@pytest.mark.parametrize("sheet", ["leituras", " LEITURAS ", "Leituras"])
def test_a_sheet_is_found_by_its_cleaned_name(sheet: str, rows: Rows, tmp_path: Path) -> None:
    xlsx(lambda lines: [("Outra", "visible", lines[:3]), ("Leituras ", "visible", lines)])(tmp_path / "t.xlsx", rows)
    assert len(read(tmp_path / "t.xlsx", sheet=sheet).rows) == 24
