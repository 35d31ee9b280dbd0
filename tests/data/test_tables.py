"""Table files, whatever program wrote them: the same cells, each with the line that it came from."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from openpyxl import Workbook

from cartas_mlflow.data.tables import read_table
from cartas_mlflow.errors import DataError

ROWS = (
    ("carta", "tema", "texto"),
    ("A Força", "Família", "Você é forte: respire, conte até dez e só então responda."),
    ("O Sol", "Estudos", "Abra a janela; estude à luz do dia."),
    ("A Lua", "Perdas", 'Diga em voz alta: "já passou", e durma.'),
)


def write_csv(path: Path, delimiter: str, encoding: str, end: str = "\n") -> None:
    lines = (delimiter.join(f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in row) for row in ROWS)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


def write_jsonl(path: Path, ascii_only: bool = False) -> None:
    header, *body = ROWS
    lines = (json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=ascii_only) for row in body)
    path.write_text("\n".join(lines), encoding="utf-8")


def write_xlsx(path: Path, *rows: Sequence[Any], title: str = "Leituras") -> None:
    book = Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    book.save(path)


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def columns_of(rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    header, *body = rows
    return {name: [row[place] for row in body] for place, name in enumerate(header)}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("virgula.csv", lambda path: write_csv(path, ",", "utf-8")),
        ("ponto_e_virgula.csv", lambda path: write_csv(path, ";", "utf-8")),
        ("tabulacao.csv", lambda path: write_csv(path, "\t", "utf-8")),
        ("windows.csv", lambda path: write_csv(path, ";", "cp1252", "\r\n")),
        ("marca.csv", lambda path: write_csv(path, ",", "utf-8-sig", "\r\n")),
        ("utf16.csv", lambda path: write_csv(path, "\t", "utf-16", "\r\n")),
        ("mac.csv", lambda path: write_csv(path, ",", "utf-8", "\r")),
        ("MAIUSCULA.CSV", lambda path: write_csv(path, ",", "utf-8")),
        ("t.jsonl", write_jsonl),
        ("ascii.jsonl", lambda path: write_jsonl(path, ascii_only=True)),
        ("t.xlsx", lambda path: write_xlsx(path, *ROWS)),
        ("t.parquet", lambda path: write_parquet(path, columns_of(ROWS))),
        (
            "categorias.parquet",
            lambda path: write_parquet(
                path, {name: pyarrow.array(cells).dictionary_encode() for name, cells in columns_of(ROWS).items()}
            ),
        ),
    ],
)
def test_every_kind_of_file_gives_the_same_cells(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    table = read_table(tmp_path / name)
    header, *body = ROWS
    assert table.columns == header
    assert [tuple(cells.values()) for _, cells in table.rows] == body


def test_a_csv_row_is_numbered_by_the_line_it_starts_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\ncarta,texto\nO Sol,"um\n\ndois"\n\n ,\nA Lua,três\n"A\nTorre",quatro\n', encoding="utf-8")
    table = read_table(path)
    assert [(line, cells["texto"]) for line, cells in table.rows] == [(3, "um dois"), (8, "três"), (9, "quatro")]


def test_a_jsonl_row_is_numbered_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"texto": "um"}\r\n\r\n{"texto": "dois"}\r\n', encoding="utf-8")
    assert [line for line, _ in read_table(path).rows] == [1, 3]


def test_a_spreadsheet_row_is_numbered_as_the_spreadsheet_numbers_it(tmp_path: Path) -> None:
    book = Workbook()
    for row, column, value in [(3, 1, "carta"), (3, 2, "texto"), (5, 1, "O Sol"), (5, 2, "um"), (9, 2, "dois")]:
        book.active.cell(row, column, value)
    book.save(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx").rows == (
        (5, {"carta": "O Sol", "texto": "um"}),
        (9, {"carta": "", "texto": "dois"}),
    )


def test_a_parquet_row_is_numbered_as_if_the_header_were_line_1(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", {"texto": ["um", None, "três"]})
    assert [line for line, _ in read_table(tmp_path / "t.parquet").rows] == [2, 4]


def test_a_parquet_file_without_columns_has_no_readings(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", {})
    with pytest.raises(DataError, match=r"t\.parquet está vazio"):
        read_table(tmp_path / "t.parquet")


def test_a_short_row_leaves_its_last_cells_empty_and_empty_cells_too_many_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("carta,texto,,\nO Sol\nA Lua,dois,,,\n", encoding="utf-8")
    table = read_table(path)
    assert table.columns == ("carta", "texto")
    assert [cells.get("texto", "") for _, cells in table.rows] == ["", "dois"]


def test_column_names_are_cleaned_like_cells(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f" carta ,{unicodedata.normalize('NFD', 'seção')}\nO Sol,Luz\n", encoding="utf-8")
    assert read_table(path).columns == ("carta", "seção")


def test_windows_quotes_and_dashes_survive(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("carta;texto\nO Sol;“Não” – disse à avó…\n".encode("cp1252"))
    assert read_table(path).rows[0][1]["texto"] == "“Não” – disse à avó…"


def test_a_spreadsheets_numbers_and_dates_become_the_text_that_was_meant(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", ("carta", "a", "b", "c"), (7.0, None, 2.5, date(2025, 7, 11)))
    cells = read_table(tmp_path / "t.xlsx").rows[0][1]
    assert cells == {"carta": "7", "a": "", "b": "2,5", "c": "11/07/2025"}


def test_a_missing_number_is_an_empty_cell(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", {"carta": ["O Sol"], "tema": [float("nan")]})
    (tmp_path / "t.jsonl").write_text('{"carta": "O Sol", "tema": null}', encoding="utf-8")
    for name in ("t.parquet", "t.jsonl"):
        assert read_table(tmp_path / name).rows[0][1] == {"carta": "O Sol", "tema": ""}


def test_the_first_sheet_is_read_unless_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    write_xlsx(path, ("carta",), ("O Sol",), title="Primeira")
    book = Workbook()
    book.active.title = "Primeira"
    book.active.append(("carta",))
    book.active.append(("O Sol",))
    book.create_sheet("Segunda").append(("texto",))
    book["Segunda"].append(("Abra a janela.",))
    book.save(path)
    assert read_table(path).rows == ((2, {"carta": "O Sol"}),)
    assert read_table(path, sheet="Segunda").rows == ((2, {"texto": "Abra a janela."}),)


def rewrite(path: Path, part: str, change: Callable[[str], str]) -> None:
    """Change one part of a spreadsheet file, as another program would have written it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part].decode("utf-8")).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    path.write_bytes(stream.getvalue())


def test_a_spreadsheet_that_states_a_wrong_size_loses_no_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    write_xlsx(path, *ROWS)
    rewrite(path, "xl/worksheets/sheet1.xml", lambda xml: re.sub(r'<dimension ref="[^"]*"', '<dimension ref="A1"', xml))
    assert len(read_table(path).rows) == 3
    assert read_table(path).columns == ROWS[0]


def test_a_spreadsheet_of_a_program_that_writes_no_styles_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    write_xlsx(path, *ROWS)
    empty = '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"/>'
    rewrite(path, "xl/styles.xml", lambda xml: empty)
    assert len(read_table(path).rows) == 3


@pytest.mark.parametrize("part", ["xl/worksheets/sheet1.xml", "xl/workbook.xml"])
def test_a_spreadsheet_with_a_damaged_part_is_refused(part: str, tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    write_xlsx(path, *ROWS)
    rewrite(path, part, lambda xml: xml[: len(xml) // 2])
    with pytest.raises(DataError, match="não é uma planilha íntegra"):
        read_table(path)


def test_a_line_separator_inside_a_json_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"texto": "um\u2028dois\x85"}\n{"texto": "três"}\n', encoding="utf-8")
    assert [cells["texto"] for _, cells in read_table(path).rows] == ["um dois", "três"]


def test_json_rows_may_lack_fields_and_hold_others(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"carta": "O Sol"}\n{"texto": "um", "ano": 2025, "bom": true}\n', encoding="utf-8")
    table = read_table(path)
    assert table.columns == ("carta", "texto", "ano", "bom")
    assert table.rows[1][1] == {"carta": "", "texto": "um", "ano": "2025", "bom": "VERDADEIRO"}


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_field_that_holds_no_text_is_refused_with_its_line_and_another_column_may_hold_anything(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        write_parquet(path, {"texto": ["um", "dois"], "marcas": [None, ["a"]]})
    else:
        path.write_text('{"texto": "um"}\n{"texto": "dois", "marcas": ["a"]}\n', encoding="utf-8")
    assert len(read_table(path, {"texto": "texto"}).rows) == 2
    with pytest.raises(DataError, match=r"linha \d: o campo marcas deve ser um texto"):
        read_table(path, {"texto": "texto", "tema": "marcas"})


def test_text_in_capitals_with_an_angle_quote_is_not_taken_for_utf8(tmp_path: Path) -> None:
    """``Ã»`` in Windows-1252 has the bytes of ``û`` in UTF-8."""
    path = tmp_path / "t.csv"
    path.write_bytes("carta;texto\nO Sol;«AMANHû é outro dia, não é?\n".encode("cp1252"))
    assert read_table(path).rows[0][1]["texto"] == "«AMANHû é outro dia, não é?"


def test_a_long_sheet_is_read_whole_its_merged_cells_too(tmp_path: Path) -> None:
    book = Workbook()
    for line in range(1, 12_002):
        book.active.append(["carta", "texto"] if line == 1 else [None, f"leitura {line}"])
    book.active["A2"] = "O Sol"
    book.active.merge_cells("A2:A12001")
    book.save(tmp_path / "t.xlsx")
    rows = read_table(tmp_path / "t.xlsx").rows
    assert [line for line, _ in rows] == list(range(2, 12_002))
    assert all(cells == {"carta": "O Sol", "texto": f"leitura {line}"} for line, cells in rows)
