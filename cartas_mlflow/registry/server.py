"""What ``mlflow models serve`` lacks: requests read alike whatever their format, refusals of one Portuguese sentence.

MLflow hands the same table over differently for each format (a null is None, NaN, or the text "None"), and answers what
it cannot read with the request, a traceback or a path in the body. Its server calls ``scoring_server.invocations`` for
every request; inside a serving process that one function is wrapped, nothing else is touched.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from cartas_mlflow.registry.requests import RequestError
from cartas_mlflow.settings import RECORD_FIELDS

FORMATS = ("dataframe_records", "dataframe_split", "inputs", "instances")
MAX_BODY = 2**20
"""Bytes of a request's body."""
EXAMPLE = '{"dataframe_records": [{"carta": "O Sol", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}]}'

_logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Refusal(Exception):
    """A request that is refused with another status than a :class:`RequestError`'s 400."""

    def __init__(self, sentence: str, status: int) -> None:
        self.sentence, self.status = sentence, status
        super().__init__(sentence)


def make_refusals_clear() -> None:
    """In a process started by ``mlflow models serve``, wrap the function that answers; elsewhere do nothing."""
    serving = scoring_server._SERVER_MODEL_PATH in os.environ
    if serving and not hasattr(scoring_server.invocations, "__wrapped__"):
        scoring_server.invocations = clearly_refusing(scoring_server.invocations)


def clearly_refusing(invocations: Callable[..., Any]) -> Callable[..., Any]:
    """``scoring_server.invocations``, given each request in the one form that keeps its cells as they were sent; the
    readings that it answers with keep their accents, which it escapes."""

    @wraps(invocations)
    def answer(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        try:
            rows, params = read_request(data, content_type)
            generator = model.unwrap_python_model()
            generator.read(pd.DataFrame(rows, dtype=object), params, generator.serving)
            body = json.dumps({"dataframe_records": rows, "params": params})
            reply = invocations(body.encode(), "application/json", model, input_schema)
            return reply._replace(response=json.dumps(json.loads(reply.response), ensure_ascii=False))
        except Refusal as refusal:
            return _response(refusal.sentence, refusal.status)
        except RequestError as error:
            return _response(error.sentence, error.get_http_status_code())
        except MlflowException as error:
            # Every fault of a request has been looked for: what is left is one of ours.
            _logger.error("%s\n%s", error.message, error.json_kwargs.get("stack_trace", ""))
            return _response("Erro interno ao gerar a leitura; o registro do servidor tem os detalhes.", 500)

    return answer


def read_request(data: bytes, content_type: str | None) -> tuple[list[Row], dict[str, Any]]:
    """The rows (those cells that a record has, as they were sent) and parameters of a request's body.

    Raises:
        Refusal: a content type that is not served, or a body that is too large.
        RequestError: a body that is not a table of rows.
    """
    kind, _, details = (content_type or "").partition(";")
    kind, details = kind.strip().lower(), details.replace(" ", "").lower()
    if kind not in {"application/json", "text/csv"}:
        raise Refusal("Mande o pedido como application/json ou text/csv (cabeçalho Content-Type).", 415)
    if details not in {"", "charset=utf-8", 'charset="utf-8"'}:
        raise Refusal("O pedido deve estar em UTF-8, sem outros detalhes em Content-Type.", 415)
    if len(data) > MAX_BODY:
        raise Refusal(f"O pedido tem {len(data)} bytes e o limite é {MAX_BODY}; divida-o.", 413)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("O corpo do pedido não está em UTF-8.") from None
    rows, params = (_read_csv(text), None) if kind == "text/csv" else _read_json(text)
    return [{name: row[name] for name in RECORD_FIELDS if name in row} for row in rows], params or {}


def _read_json(text: str) -> tuple[list[Row], dict[str, Any] | None]:
    try:
        body = json.loads(text)
    except RecursionError:
        raise RequestError("O corpo do pedido tem listas ou objetos aninhados demais.") from None
    except json.JSONDecodeError as error:
        raise RequestError(
            f"O corpo do pedido não é JSON válido (linha {error.lineno}, coluna {error.colno}); por exemplo: {EXAMPLE}"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise RequestError("O corpo do pedido tem um número grande demais.") from None
    formats = [name for name in FORMATS if name in body] if isinstance(body, dict) else []
    if len(formats) != 1:
        raise RequestError(
            f"O pedido deve ser um objeto JSON com exatamente uma destas chaves: {', '.join(FORMATS)}; por exemplo: "
            f"{EXAMPLE}"
        )
    params = body.get("params")
    if params is not None and not isinstance(params, dict):
        raise RequestError('params deve ser um objeto; por exemplo: {"params": {"num_beams": 4}}.')
    name, table = formats[0], body[formats[0]]
    if name == "dataframe_split":
        return _read_split(table), params
    if name != "dataframe_records" and isinstance(table, dict):
        table = _read_columns(name, table)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise RequestError(f"{name} deve ser uma lista de linhas; por exemplo: {EXAMPLE.replace(FORMATS[0], name)}")
    return table, params


def _read_split(table: Any) -> list[Row]:
    columns, data = (table.get("columns"), table.get("data")) if isinstance(table, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list) or not all(isinstance(row, list) for row in data):
        raise RequestError(
            'dataframe_split deve ter columns e data; por exemplo: {"dataframe_split": {"columns": ["carta", …], '
            '"data": [["O Sol", …]]}}'
        )
    names = [name for name in columns if isinstance(name, str)]
    if len(names) != len(columns) or len(set(names)) != len(names):
        raise RequestError("dataframe_split: columns deve ter nomes de colunas, cada um uma só vez.")
    for number, row in enumerate(data, start=1):
        if len(row) != len(names):
            raise RequestError(f"os valores são {len(row)} e as colunas, {len(names)}; complete a linha.", number)
    return [dict(zip(names, row, strict=True)) for row in data]


def _read_columns(name: str, table: Mapping[str, Any]) -> list[Row]:
    """A map of columns, or of one row's cells."""
    columns = {key: cells for key, cells in table.items() if key in RECORD_FIELDS}
    listed = [isinstance(cells, list) for cells in columns.values()]
    if not any(listed):
        return [columns] if columns else []
    lengths = {len(cells) if isinstance(cells, list) else 0 for cells in columns.values()}
    if not all(listed) or len(lengths) > 1:
        raise RequestError(f"{name}: as colunas devem ser listas do mesmo comprimento.")
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _read_csv(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0] if lines else ""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        table = [[cell.strip() for cell in cells] for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error:
        raise RequestError(
            f"O csv do pedido não pôde ser lido perto da linha {reader.line_num}; confira as aspas."
        ) from None
    if not table:
        return []
    names, *rows = table
    if len(set(names)) != len(names):
        raise RequestError("O csv do pedido tem duas colunas com o mesmo nome.")
    for number, cells in enumerate(rows, start=1):
        if len(cells) != len(names):
            raise RequestError(f"os valores são {len(cells)} e as colunas, {len(names)}; complete a linha.", number)
    return [dict(zip(names, cells, strict=True)) for cells in rows]


def _response(sentence: str, status: int) -> Any:
    code = "INTERNAL_ERROR" if status == 500 else "BAD_REQUEST"
    body = json.dumps({"error_code": code, "message": sentence}, ensure_ascii=False)
    return scoring_server.InvocationsResponse(body, status, "application/json")
