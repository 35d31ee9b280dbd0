"""Make MLflow's own refusals as clear as the model's: one Portuguese sentence, no stack trace, no path.

``mlflow models serve`` answers a request that it cannot parse with a traceback in the body. The server hands every
request to ``scoring_server.invocations``; inside a serving process that one function is wrapped, nothing else is
touched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from cartas_mlflow.registry.requests import PARAMETERS, RequestError

FORMATS = ("dataframe_records", "dataframe_split", "inputs", "instances")
MAX_BODY = 2**20
"""Bytes of a request's body."""
EXAMPLE = '{"dataframe_records": [{"carta": "O Sol", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}]}'


def make_refusals_clear() -> None:
    """In a process started by ``mlflow models serve``, wrap the function that answers; elsewhere do nothing."""
    serving = scoring_server._SERVER_MODEL_PATH in os.environ
    if serving and not hasattr(scoring_server.invocations, "__wrapped__"):
        scoring_server.invocations = clearly_refusing(scoring_server.invocations)


def clearly_refusing(invocations: Callable[..., Any]) -> Callable[..., Any]:
    """``scoring_server.invocations`` with its refusals as one sentence each, and the status code that fits."""

    @wraps(invocations)
    def answer(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        try:
            kind = (content_type or "").split(";")[0].strip().lower()
            if kind not in {"application/json", "text/csv"}:
                return _refusal("Mande o pedido como application/json ou text/csv (cabeçalho Content-Type).", 415)
            if len(data) > MAX_BODY:
                return _refusal(f"O pedido tem {len(data)} bytes e o limite é {MAX_BODY}; divida-o.", 413)
            if kind == "application/json":
                _check_json(data)
            response = invocations(data, content_type, model, input_schema)
        except RequestError as error:
            return scoring_server.InvocationsResponse(error.serialize_as_json(), 400, "application/json")
        except MlflowException as error:
            return _refusal(_translate(error.message), error.get_http_status_code())
        if response.status == 415:
            return _refusal("O pedido deve estar em UTF-8, sem outros parâmetros em Content-Type.", 415)
        return response

    return answer


def _check_json(data: bytes) -> None:
    try:
        body = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestError("O corpo do pedido não está em UTF-8.") from None
    except RecursionError:
        raise RequestError("O corpo do pedido é aninhado demais.") from None
    except ValueError as error:
        place = f" (linha {error.lineno}, coluna {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(f"O corpo do pedido não é JSON válido{place}; por exemplo: {EXAMPLE}") from None
    if not isinstance(body, dict):
        raise RequestError(f"O corpo do pedido deve ser um objeto JSON; por exemplo: {EXAMPLE}")
    formats = [name for name in FORMATS if name in body]
    if len(formats) != 1 or {"messages", "prompt", "input"} & set(body):
        raise RequestError(
            f"O pedido deve ter exatamente uma destas chaves: {', '.join(FORMATS)}; por exemplo: {EXAMPLE}"
        )
    rows = body[formats[0]]
    if not isinstance(rows, (list, dict)) or not rows:
        raise RequestError(f"{formats[0]} está vazio ou não é uma lista de linhas; por exemplo: {EXAMPLE}")
    if body.get("params") is not None and not isinstance(body["params"], dict):
        raise RequestError('params deve ser um objeto, por exemplo {"params": {"num_beams": 4}}.')


def _translate(message: str) -> str:
    missing = re.search(r"missing inputs \[([^\]]*)\]", message)
    if missing:
        return f"Falta a coluna {missing[1].replace(chr(39), '')}."
    for name, (kind, least, greatest) in PARAMETERS.items():
        if "Invalid parameters found" in message and f"'{name}'" in message:
            if kind == "boolean":
                return f"O parâmetro {name} deve ser true ou false."
            number = "um número" if kind == "double" else "um número inteiro"
            return f"O parâmetro {name} deve ser {number} de {least:g} a {greatest:g}."
    return f"O pedido não pôde ser lido como uma tabela de textos; por exemplo: {EXAMPLE}"


def _refusal(sentence: str, status: int) -> Any:
    body = json.dumps({"error_code": "BAD_REQUEST", "message": sentence}, ensure_ascii=False)
    return scoring_server.InvocationsResponse(body, status, "application/json")
