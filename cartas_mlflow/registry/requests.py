"""What a served model is asked: every row and parameter checked, each refusal one Portuguese sentence.

MLflow's scoring server does not check text columns (numbers, lists and nulls arrive as they are), drops parameters that
the signature does not know, and hands the same request over differently for each format.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings

if TYPE_CHECKING:
    import pandas as pd

MAX_FIELD_LENGTH = 200
"""Characters of one field of a request."""
MAX_SEQUENCES = 16
MAX_NEW_TOKENS = 512
MAX_BEAMS = 16

PARAMETERS: dict[str, tuple[str, float, float]] = {
    "max_new_tokens": ("integer", 1, MAX_NEW_TOKENS),
    "num_beams": ("integer", 1, MAX_BEAMS),
    "do_sample": ("boolean", 0, 1),
    "temperature": ("double", 0.01, 10),
    "top_p": ("double", 0.01, 1),
    "no_repeat_ngram_size": ("integer", 0, 64),
    "seed": ("long", 0, 2**32 - 1),
    "num_return_sequences": ("integer", 1, MAX_SEQUENCES),
}
"""Parameter of the signature -> MLflow type, least and greatest value."""


class RequestError(MlflowException):
    """A request that cannot be answered: HTTP 400 whose body is one sentence.

    MLflow's server puts the whole request in front of an exception's message; this one's body stays as it was written.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.sentence}, ensure_ascii=False)


def read_rows(
    frame: pd.DataFrame, used: Sequence[str], cards: Sequence[str] | None, max_rows: int
) -> list[dict[str, str]]:
    """The fields of each row, every field of a record present (``""`` where the table has none).

    Args:
        used: fields that the prompt's template uses.
        cards: cards that the model knows; None lets any through.

    Raises:
        RequestError: no row or too many, a field that is missing, empty, not text, or too long, an unknown card.
    """
    if len(frame) == 0:
        raise RequestError("O pedido não tem nenhuma linha; mande ao menos uma carta.")
    if len(frame) > max_rows:
        raise RequestError(f"O pedido tem {len(frame)} linhas e o limite é {max_rows}; divida-o em pedidos menores.")
    missing = [name for name in used if name not in frame.columns]
    if missing:
        raise RequestError(f"Falta a coluna {', '.join(missing)}; este modelo precisa de {', '.join(used)}.")
    rows = []
    for number, row in enumerate(frame.to_dict("records"), start=1):
        fields = {name: _field(row.get(name, ""), name, number, name in used) for name in RECORD_FIELDS}
        if cards is not None and "carta" in used and fields["carta"] not in cards:
            near = difflib.get_close_matches(fields["carta"], cards, n=3, cutoff=0.5) or list(cards)[:3]
            raise RequestError(
                f"Linha {number}: este modelo não conhece a carta {fields['carta'][:60]!r}; as mais próximas são "
                f"{', '.join(near)}."
            )
        rows.append(fields)
    return rows


def read_parameters(params: Mapping[str, Any] | None, defaults: GenerationSettings) -> tuple[GenerationSettings, int]:
    """The decoding settings of a request, and how many readings each row gets.

    Raises:
        RequestError: a value out of range, or values that contradict each other.
    """
    given = {name: value for name, value in (params or {}).items() if name in PARAMETERS and value is not None}
    for name, value in given.items():
        _, least, greatest = PARAMETERS[name]
        if not least <= value <= greatest:
            raise RequestError(f"O parâmetro {name}={value} está fora do intervalo de {least:g} a {greatest:g}.")
    sequences = int(given.pop("num_return_sequences", 1))
    settings = defaults.model_copy(update=given)
    if settings.do_sample and settings.num_beams > 1:
        raise RequestError(
            f"do_sample=true não combina com num_beams={settings.num_beams}; use num_beams=1, ou do_sample=false."
        )
    if sequences > 1 and not settings.do_sample and settings.num_beams < sequences:
        raise RequestError(
            f"num_return_sequences={sequences} precisa de do_sample=true, ou de num_beams de pelo menos {sequences}: "
            "sem isso há uma só leitura."
        )
    return settings, sequences


def _field(value: Any, name: str, number: int, used: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType":
        if used:
            raise RequestError(f"Linha {number}: o campo {name} está vazio; escreva um texto.")
        return ""
    if not isinstance(value, str):
        raise RequestError(f"Linha {number}: o campo {name} deve ser um texto, e não {_kind(value)}.")
    text = " ".join(value.split())
    if used and not text:
        raise RequestError(f"Linha {number}: o campo {name} está vazio; escreva um texto.")
    if len(text) > MAX_FIELD_LENGTH:
        raise RequestError(
            f"Linha {number}: o campo {name} tem {len(text)} caracteres e o limite é {MAX_FIELD_LENGTH}; encurte-o."
        )
    return text


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "um valor lógico"
    if isinstance(value, (list, tuple)):
        return "uma lista"
    return "um objeto" if isinstance(value, dict) else "um número"
