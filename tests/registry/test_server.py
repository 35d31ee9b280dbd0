"""A request's body as rows and parameters, alike whatever its format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cartas_mlflow.registry.requests import RequestError
from cartas_mlflow.registry.server import EXAMPLE, MAX_BODY, Refusal, read_request

JSON = "application/json"
SUN = {"carta": "O Sol", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
MOON = {"carta": "A Lua", "evento": "Ano Novo", "secao": "Luz", "tema": "Lar"}
COLUMNS = {name: [SUN[name], MOON[name]] for name in SUN}
SPLIT = {"columns": list(SUN), "data": [list(SUN.values()), list(MOON.values())]}
CSV = "carta,evento,secao,tema\r\nO Sol,Ano Novo,Luz,Amor\r\nA Lua,Ano Novo,Luz,Lar\r\n"


def read(body: Any, kind: str = JSON) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return read_request(data, kind)


def refusal(body: Any, kind: str = JSON) -> str:
    with pytest.raises(RequestError) as refused:
        read(body, kind)
    return refused.value.sentence


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [SUN, MOON]},
        {"dataframe_split": SPLIT},
        {"dataframe_split": {**SPLIT, "index": [3, 4]}},
        {"inputs": [SUN, MOON]},
        {"inputs": COLUMNS},
        {"instances": [SUN, MOON]},
        {"instances": COLUMNS},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_every_json_format_gives_the_same_rows(body: dict[str, Any]) -> None:
    assert read(body) == ([SUN, MOON], {})


@pytest.mark.parametrize("kind", ["text/csv", "text/csv; charset=utf-8", "TEXT/CSV ;charset=UTF-8"])
@pytest.mark.parametrize("text", [CSV, CSV.replace(",", ";"), CSV.replace(",", "\t"), f"\ufeff{CSV}\n\n"])
def test_csv_gives_the_same_rows_whatever_its_separator(kind: str, text: str) -> None:
    assert read(text, kind) == ([SUN, MOON], {})


def test_one_row_may_be_given_as_a_map_of_its_fields() -> None:
    assert read({"inputs": SUN}) == ([SUN], {})


@pytest.mark.parametrize("value", [None, 7, 0.5, True, ["O Sol"], {"a": 1}, "None", "NaN"], ids=repr)
@pytest.mark.parametrize("name", ["dataframe_records", "inputs", "instances"])
def test_a_cell_arrives_as_it_was_sent(name: str, value: Any) -> None:
    assert read({name: [{**SUN, "tema": value}]}) == ([{**SUN, "tema": value}], {})
    split = {"columns": list(SUN), "data": [[*list(SUN.values())[:3], value]]}
    assert read({"dataframe_split": split}) == ([{**SUN, "tema": value}], {})


@pytest.mark.parametrize("text", ["NA", "null", "None", "2024", "TRUE"])
def test_a_csv_cell_is_always_a_text(text: str) -> None:
    assert read(CSV.replace("Amor", text), "text/csv")[0][0]["tema"] == text


def test_columns_that_no_record_has_are_left_out() -> None:
    assert read({"dataframe_records": [{**SUN, "id": 3, "texto": "…"}]}) == ([SUN], {})


def test_parameters_come_along_in_json() -> None:
    assert read({"inputs": [SUN], "params": {"num_beams": 4}}) == ([SUN], {"num_beams": 4})
    assert read({"inputs": [SUN], "params": None}) == ([SUN], {})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"\xff\xfe", "O corpo do pedido não está em UTF-8."),
        ("", f"O corpo do pedido não é JSON válido (linha 1, coluna 1); por exemplo: {EXAMPLE}"),
        ('{"inputs": [', f"O corpo do pedido não é JSON válido (linha 1, coluna 13); por exemplo: {EXAMPLE}"),
        ('{"inputs": ' + "[" * 100_000, "O corpo do pedido tem listas ou objetos aninhados demais."),
        ('{"inputs": ' + "9" * 5000 + "}", "O corpo do pedido tem um número grande demais."),
    ],
    ids=["not UTF-8", "empty", "cut", "nested", "huge number"],
)
def test_a_body_that_is_no_json_says_where(body: Any, sentence: str) -> None:
    assert refusal(body) == sentence


@pytest.mark.parametrize(
    "body",
    [[], "texto", 7, None, {}, {"rows": [SUN]}, {"inputs": [SUN], "instances": [SUN]}, {"messages": []}],
    ids=json.dumps,
)
def test_a_body_without_exactly_one_table_names_the_formats(body: Any) -> None:
    assert refusal(json.dumps(body)) == (
        "O pedido deve ser um objeto JSON com exatamente uma destas chaves: dataframe_records, dataframe_split, "
        f"inputs, instances; por exemplo: {EXAMPLE}"
    )


@pytest.mark.parametrize("table", [None, 7, "O Sol", ["O Sol"], [[SUN]], [SUN, None]], ids=json.dumps)
@pytest.mark.parametrize("name", ["dataframe_records", "inputs", "instances"])
def test_a_table_that_is_no_list_of_rows_shows_one(name: str, table: Any) -> None:
    assert refusal({name: table}) == (
        f"{name} deve ser uma lista de linhas; por exemplo: {EXAMPLE.replace('dataframe_records', name)}"
    )


def test_records_are_not_a_map_of_columns() -> None:
    assert refusal({"dataframe_records": COLUMNS}).startswith("dataframe_records deve ser uma lista de linhas")


@pytest.mark.parametrize("split", [None, [], {}, {"columns": ["carta"]}, {"columns": 1, "data": []}], ids=json.dumps)
def test_a_split_without_its_parts_shows_them(split: Any) -> None:
    assert refusal({"dataframe_split": split}) == (
        'dataframe_split deve ter columns e data; por exemplo: {"dataframe_split": {"columns": ["carta", …], '
        '"data": [["O Sol", …]]}}'
    )


@pytest.mark.parametrize("columns", [["carta", "carta"], ["carta", 7], ["carta", None]], ids=json.dumps)
def test_the_columns_of_a_split_have_names(columns: list[Any]) -> None:
    assert refusal({"dataframe_split": {"columns": columns, "data": [["O Sol", "x"]]}}) == (
        "dataframe_split: columns deve ter nomes de colunas, cada um uma só vez."
    )


def test_a_row_of_another_length_is_named() -> None:
    split = {"columns": ["carta", "tema"], "data": [["O Sol", "Amor"], ["A Lua"]]}
    assert refusal({"dataframe_split": split}) == "Linha 2: os valores são 1 e as colunas, 2; complete a linha."
    assert refusal("carta,tema\nO Sol,Amor,Lar\n", "text/csv").startswith("Linha 1: os valores são 3 e as colunas, 2;")


@pytest.mark.parametrize(
    "table", [{"carta": ["O Sol", "A Lua"], "tema": ["Amor"]}, {"carta": ["O Sol"], "tema": "Lar"}]
)
def test_columns_of_different_lengths_are_refused(table: dict[str, Any]) -> None:
    assert refusal({"inputs": table}) == "inputs: as colunas devem ser listas do mesmo comprimento."


@pytest.mark.parametrize("body", [{"inputs": []}, {"inputs": {}}, {"dataframe_split": {"columns": [], "data": []}}])
def test_an_empty_table_has_no_rows(body: dict[str, Any]) -> None:
    assert read(body) == ([], {})


@pytest.mark.parametrize("text", ["", "\n\n", "carta,tema\n"])
def test_an_empty_csv_has_no_rows(text: str) -> None:
    assert read(text, "text/csv") == ([], {})


def test_a_csv_with_open_quotes_says_about_where() -> None:
    assert refusal('carta,tema\nO Sol,"Amor\n', "text/csv") == (
        "O csv do pedido não pôde ser lido perto da linha 2; confira as aspas."
    )


def test_a_csv_with_a_column_twice_is_refused() -> None:
    assert refusal("carta,carta\nO Sol,A Lua\n", "text/csv") == "O csv do pedido tem duas colunas com o mesmo nome."


@pytest.mark.parametrize("params", [[], "num_beams=4", 4, True], ids=json.dumps)
def test_params_are_an_object(params: Any) -> None:
    assert refusal({"inputs": [SUN], "params": params}) == (
        'params deve ser um objeto; por exemplo: {"params": {"num_beams": 4}}.'
    )


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/xml", "application/vnd.apache.parquet", "json"])
def test_another_content_type_is_415(kind: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(b"{}", kind)
    assert (refused.value.status, refused.value.sentence) == (
        415,
        "Mande o pedido como application/json ou text/csv (cabeçalho Content-Type).",
    )


@pytest.mark.parametrize("kind", ["application/json; charset=latin-1", "text/csv; header=present"])
def test_another_encoding_or_detail_is_415(kind: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(b"{}", kind)
    assert (refused.value.status, refused.value.sentence) == (
        415,
        "O pedido deve estar em UTF-8, sem outros detalhes em Content-Type.",
    )


def test_a_body_beyond_the_limit_is_413() -> None:
    with pytest.raises(Refusal) as refused:
        read_request(b" " * (MAX_BODY + 1), JSON)
    assert (refused.value.status, refused.value.sentence) == (
        413,
        "O pedido tem 1048577 bytes e o limite é 1048576; divida-o.",
    )
