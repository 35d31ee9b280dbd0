"""500 tables that nobody has thought of: each is read, or refused with one sentence; never a traceback."""

from __future__ import annotations

import datetime
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cartas_mlflow.data.oddities import describe_oddities
from cartas_mlflow.data.records import load_records
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import DataSettings

FIELDS = ("carta", "evento", "secao", "tema", "texto")
DRESSES = {
    "carta": ["carta", "Carta", "CARTA ", "Arcano", "\u200bcarta", "Nome da carta", "carta*"],
    "evento": ["evento", "Evento", "Ocasião", "Quando?", "evento\u00a0"],
    "secao": ["secao", "Seção", "SEÇÃO:", "Parte", "se\u00adção"],
    "tema": ["tema", "Tema", "Assunto", "  tema"],
    "texto": ["texto", "Texto ", "Leitura", "Interpretação", "Texto\nda leitura"],
}
text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        ["O Sol", "o sol", "A Força", "", " ", "#N/A", "=1+1", "5.0", "2026-08-05 00:00:00", "a;b,c\td|e", '"']
    ),
    st.sampled_from(
        ["Você é forte.", "Seção “nova” – ação…", "linha\r\nlinha", "\x00", "\ufeff", "_x000D_", "🌙", "'", "sep=;"]
    ),
)
value = st.one_of(
    text,
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=True, allow_infinity=True),
    st.datetimes(datetime.datetime(1901, 1, 1), datetime.datetime(2100, 1, 1)),
    st.times(),
)


@st.composite
def tables(draw: st.DrawFn) -> list[list[Any]]:
    """Rows, the header somewhere among the first: dressed up, cut short, in another order, or not there."""
    order = draw(st.permutations(FIELDS))
    header = [draw(st.sampled_from(DRESSES[name])) for name in order if draw(st.integers(0, 30)) > 0]
    header += draw(st.lists(text, max_size=2))
    plain = st.builds("{} {}".format, st.sampled_from(["O Sol", "A Lua", "Você é forte", "Ação"]), st.integers(1, 99))
    odd = draw(st.sampled_from([0, 0, 1, 5, 20]))  # of a hundred cells so many are anything
    cell = st.integers(0, 99).flatmap(lambda number: draw(st.sampled_from([value, text])) if number < odd else plain)
    width = len(header) + draw(st.sampled_from([0, 0, 0, 1, -1]))
    length = draw(st.sampled_from([0, 1, 5, 15, 20, 25]))
    body = [[draw(cell) for _ in range(width)] for _ in range(length)]
    body += draw(st.sampled_from([[], [[None] * 7] * 3, [["Total", len(body)]], [header]]))
    above = draw(st.lists(st.lists(text, max_size=3), max_size=4)) if draw(st.booleans()) else []
    offset = [None] * draw(st.integers(0, 3))
    return [*above, *([*offset, *row] for row in [header, *body])]


def as_csv(draw: st.DrawFn, rows: list[list[Any]]) -> tuple[str, bytes]:
    separator = draw(st.sampled_from([",", ";", "\t", "|", ", "]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quote = draw(st.sampled_from(['"', '"', "", "'"]))
    lines = [
        separator.join(quote + ("" if cell is None else str(cell)).replace('"', '""') + quote for cell in row)
        for row in rows
    ]
    body = draw(st.sampled_from(["", "", "\ufeff", "sep=;\n", "\ufeff\ufeff"])) + end.join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-16", "utf-16-le", "cp1252", "mac_roman", "cp850", "utf-32"]))
    content = body.encode(encoding, errors="replace")
    return draw(st.sampled_from(["t.csv", "t.csv", "t.csv", "t.txt", "t.tsv", "t.xls", "t", "t.jsonl"])), content[
        : draw(st.sampled_from([None, None, None, -1, 60]))
    ]


def as_xlsx(draw: st.DrawFn, rows: list[list[Any]]) -> tuple[str, bytes]:
    from openpyxl import Workbook
    from openpyxl.utils.exceptions import IllegalCharacterError

    book = Workbook()
    for state in draw(st.lists(st.sampled_from(["visible", "hidden", "veryHidden"]), max_size=2)):
        book.create_sheet().sheet_state = state
    sheet = draw(st.sampled_from(book.worksheets))
    for line, row in enumerate(rows, start=1):
        for column, cell in enumerate(row, start=1):
            try:
                sheet.cell(line, column).value = None if isinstance(cell, float) and not math.isfinite(cell) else cell
            except (IllegalCharacterError, ValueError):
                continue
    for _ in range(draw(st.integers(0, 2))):
        top, left = draw(st.integers(1, 6)), draw(st.integers(1, 4))
        sheet.merge_cells(start_row=top, start_column=left, end_row=top + draw(st.integers(0, 3)), end_column=left)
    stream = io.BytesIO()
    book.save(stream)
    return draw(st.sampled_from(["t.xlsx", "t.csv", "t.xlsm"])), stream.getvalue()


def as_ods(draw: st.DrawFn, rows: list[list[Any]]) -> tuple[str, bytes]:
    import pandas as pd

    def plain(cell: Any) -> str | None:
        return None if cell is None else "".join(one for one in str(cell) if one.isprintable() or one in " \n")

    width = max(map(len, rows))
    padded = [[plain(cell) for cell in row] + [None] * (width - len(row)) for row in rows]
    stream = io.BytesIO()
    pd.DataFrame(padded).to_excel(stream, engine="odf", header=False, index=False)
    return "t.ods", stream.getvalue()


def _header_place(rows: list[list[Any]]) -> int:
    known = {dress for dresses in DRESSES.values() for dress in dresses}
    return max(range(len(rows)), key=lambda place: len(known.intersection(map(str, rows[place]))))


def as_jsonl(draw: st.DrawFn, rows: list[list[Any]]) -> tuple[str, bytes]:
    header, *body = rows[_header_place(rows) :]
    names = [str(cell) for cell in header]
    nested = draw(st.sampled_from([None, ["a"], {"b": 1}]))
    objects = [
        {**dict(zip(names, map(_json_cell, row), strict=False)), **({"x": nested} if nested else {})} for row in body
    ]
    whole = json.dumps(objects) if draw(st.booleans()) else "\n".join(json.dumps(each) for each in objects)
    return draw(st.sampled_from(["t.jsonl", "t.json"])), whole.encode()


def _json_cell(cell: Any) -> Any:
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)


def as_parquet(draw: st.DrawFn, rows: list[list[Any]]) -> tuple[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    header, *body = rows[_header_place(rows) :]
    names = [f"{cell}" for cell in header]
    columns = [[None if place >= len(row) else str(row[place]) for row in body] for place in range(len(names))]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], names=names), stream)
    return "t.parquet", stream.getvalue()


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    rows = draw(tables())
    write = draw(st.sampled_from([as_csv, as_csv, as_xlsx, as_ods, as_jsonl, as_parquet]))
    name, content = write(draw, rows)
    if draw(st.integers(0, 9)) == 0 and content:  # a file that was cut, or changed on its way
        place = draw(st.integers(0, len(content) - 1))
        content = (
            content[:place] + draw(st.binary(max_size=3)) + content[place + draw(st.sampled_from([1, 50, 10**9])) :]
        )
    return name, content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(file=files())
def test_a_table_is_read_or_refused_with_one_sentence(file: tuple[str, bytes], folder: Path) -> None:
    name, content = file
    path = folder / name
    path.write_bytes(content)
    try:
        records = load_records(DataSettings(path=str(path)))
        assert all(cell == cell.strip() and cell for row in records.rows for cell in (row.carta, row.texto))
        assert len(records.lines) == len(records.rows)
        assert all("\n" not in line for line in (*records.table.remarks, *describe_oddities(records)))
        split = split_records(records, 0.15, 42)
        assert len(split.train) + len(split.validation) == len(records.rows)
        assert split.validation
    except DataError as error:
        assert "\n" not in str(error)
        assert str(error).endswith((".", ")"))
    finally:
        path.unlink()
