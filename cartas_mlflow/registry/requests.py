"""What a served model is asked: every row and parameter checked, each refusal one Portuguese sentence.

MLflow checks neither the cells of text columns (numbers, lists and nulls arrive as they are) nor a parameter's range.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from cartas_mlflow.data.cells import clean_text
from cartas_mlflow.data.matching import find_value
from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings, ServingSettings

PARAMETERS: dict[str, tuple[str, float, float]] = {
    "max_new_tokens": ("integer", 1, 512),
    "num_beams": ("integer", 1, 16),
    "do_sample": ("boolean", 0, 1),
    "temperature": ("double", 0.01, 10),
    "top_p": ("double", 0.01, 1),
    "no_repeat_ngram_size": ("integer", 0, 64),
    "seed": ("long", 0, 2**32 - 1),
    "num_return_sequences": ("integer", 1, 16),
    "error_column": ("boolean", 0, 1),
}
"""Parameter of the signature -> MLflow type, least and greatest value. A model's own default is always in range."""

_SHOWN = 40


class RequestError(MlflowException):
    """A request that cannot be answered: HTTP 400 whose body is one sentence.

    MLflow's server puts the whole request in front of an exception's message; this one's body stays as it was written.

    Args:
        clause: what is wrong and the mend, without the row.
        row: the row it is about, counted from 1; None where it is about the whole request.
    """

    def __init__(self, clause: str, row: int | None = None) -> None:
        self.clause, self.row = clause, row
        super().__init__(self.sentence, error_code=INVALID_PARAMETER_VALUE)

    @property
    def sentence(self) -> str:
        return self.clause if self.row is None else f"Linha {self.row}: {self.clause}"

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.sentence}, ensure_ascii=False)


@dataclass(frozen=True)
class Vocabulary:
    """What a model was trained on. ``known``: field -> its values; ``any_card``: cards outside of it go through too."""

    known: Mapping[str, Sequence[str]]
    any_card: bool = False

    def spell(self, name: str, text: str) -> str:
        """The value as the training spelled it, however it was typed; the text itself where it knows none like it."""
        return find_value(text, self.known.get(name, ())) or text

    def check(self, row: Mapping[str, str], number: int) -> None:
        """Raises:
        RequestError: a card that the model does not know.
        """
        cards = self.known.get("carta", ())
        if not self.any_card and cards and row["carta"] not in cards:
            raise RequestError(_unknown_card(row["carta"], cards), number)


def read_rows(
    frame: pd.DataFrame, used: Sequence[str], vocabulary: Vocabulary, limits: ServingSettings | None
) -> list[dict[str, str]]:
    """The fields of each row, cleaned like the readings of a training and spelled as there; every field of a record is
    present (``""`` where the table has none).

    Args:
        used: fields that the prompt's template uses.
        limits: how much a request may hold; None: no limit.

    Raises:
        RequestError: no row or too many, a field that is missing, empty, not text, or too long, an unknown card.
    """
    if limits is not None and len(frame) > limits.max_rows:
        raise RequestError(
            f"O pedido tem {len(frame)} linhas e o limite é {limits.max_rows}; divida-o em pedidos menores."
        )
    rows = []
    for row in try_rows(frame, used, vocabulary, limits):
        if isinstance(row, RequestError):
            raise row
        rows.append(row)
    return rows


def try_rows(
    frame: pd.DataFrame, used: Sequence[str], vocabulary: Vocabulary, limits: ServingSettings | None
) -> Iterator[dict[str, str] | RequestError]:
    """Each row as :func:`read_rows` gives it, or why it cannot be answered.

    Raises:
        RequestError: no row at all, or a column that is missing.
    """
    if len(frame) == 0:
        raise RequestError("O pedido não tem nenhuma linha; mande ao menos uma carta.")
    missing = [name for name in used if name not in frame.columns]
    if missing:
        columns = "a coluna" if len(missing) == 1 else "as colunas"
        raise RequestError(
            f"Falta{'m' if len(missing) > 1 else ''} {columns} {', '.join(missing)}; este modelo precisa de "
            f"{', '.join(used)}."
        )
    longest = None if limits is None else limits.max_field_length
    for number, cells in enumerate(frame.to_dict("records"), start=1):
        try:
            row = {
                name: vocabulary.spell(name, _read_cell(cells.get(name), name, number, longest, required=name in used))
                for name in RECORD_FIELDS
            }
            if "carta" in used:
                vocabulary.check(row, number)
        except RequestError as error:
            yield error
        else:
            yield row


def read_parameters(params: Mapping[str, Any] | None, defaults: GenerationSettings) -> tuple[GenerationSettings, int]:
    """The decoding settings of a request, and how many readings each row gets. A null stands for the default.

    Raises:
        RequestError: a value of another type or out of range, or values that contradict each other.
    """
    own = defaults.model_dump()
    given = {
        name: _read_parameter(name, value, own.get(name))
        for name, value in (params or {}).items()
        if name in PARAMETERS and value is not None
    }
    sequences = given.pop("num_return_sequences", 1)
    given.pop("error_column", None)  # about the answer, not about the texts
    settings = defaults.model_copy(update=given)
    if settings.do_sample and settings.num_beams > 1:
        # Who asks for one of the two alone means it: the other is only the training's way.
        if "num_beams" not in given:
            settings = settings.model_copy(update={"num_beams": 1})
        elif "do_sample" not in given:
            settings = settings.model_copy(update={"do_sample": False})
    if settings.do_sample and settings.num_beams > 1:
        raise RequestError(
            f"do_sample=true não combina com num_beams={settings.num_beams}; use num_beams=1, ou do_sample=false."
        )
    if sequences > 1 and not settings.do_sample and settings.num_beams < sequences:
        raise RequestError(
            f"num_return_sequences={sequences} precisa de do_sample=true, ou de num_beams de pelo menos {sequences}: "
            "sem isso há uma só leitura."
        )
    shortest = min(settings.min_new_tokens, settings.max_new_tokens)
    return settings.model_copy(update={"min_new_tokens": shortest}), sequences


def check_work(rows: int, settings: GenerationSettings, sequences: int, limits: ServingSettings) -> None:
    """Refuse a request that would keep everybody else waiting.

    Raises:
        RequestError: it may generate more tokens than ``limits.max_tokens``.
    """
    width = max(sequences, settings.num_beams)
    tokens = rows * width * settings.max_new_tokens
    if tokens > limits.max_tokens:
        raise RequestError(
            f"O pedido pode gerar {tokens} tokens ({rows} linhas × {width} × {settings.max_new_tokens}) e o limite é "
            f"{limits.max_tokens}; mande menos linhas, ou diminua num_beams, num_return_sequences ou max_new_tokens."
        )


def nearest_cards(card: str, cards: Sequence[str]) -> list[str]:
    """Up to three of the known cards, the most similar first; upper and lower case do not count."""
    known = {name.casefold(): name for name in cards}
    return [known[name] for name in difflib.get_close_matches(card.casefold(), known, n=3, cutoff=0.5)]


def _unknown_card(card: str, cards: Sequence[str]) -> str:
    near = nearest_cards(card, cards)
    hint = f"as mais próximas são {', '.join(near)}." if near else f"ele conhece {', '.join(cards[:5])}"
    more = "" if near else ", …" if len(cards) > 5 else "."
    return f"este modelo não conhece a carta {_shown(card)}; {hint}{more}"


def _read_cell(value: Any, name: str, number: int, longest: int | None, *, required: bool) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        text = ""
    elif not isinstance(value, str):
        raise RequestError(f"o campo {name} deve ser um texto, e não {_kind(value)}.", number)
    elif not _is_unicode(value):
        raise RequestError(f"o campo {name} tem um caractere Unicode incompleto; corrija o texto.", number)
    else:
        text = clean_text(value)
    if required and not text:
        raise RequestError(f"o campo {name} está vazio; escreva um texto.", number)
    if longest is not None and len(text) > longest:
        raise RequestError(f"o campo {name} tem {len(text)} caracteres e o limite é {longest}; encurte-o.", number)
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair is good JSON but no text
        return False
    return True


def _read_parameter(name: str, value: Any, default: Any) -> bool | int | float:
    kind, least, greatest = PARAMETERS[name]
    if kind == "boolean":
        if not isinstance(value, (bool, np.bool_)):
            raise RequestError(f"O parâmetro {name}={_shown(value)} não serve; use true ou false.")
        return bool(value)
    if default is not None:
        least, greatest = min(least, default), max(greatest, default)
    number = Real if kind == "double" else Integral
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, number) or not least <= value <= greatest:
        wanted = "um número" if kind == "double" else "um número inteiro"
        raise RequestError(f"O parâmetro {name}={_shown(value)} não serve; use {wanted} de {least} a {greatest}.")
    return float(value) if kind == "double" else int(value)


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "um valor lógico"
    if isinstance(value, (list, tuple, np.ndarray)):
        return "uma lista"
    return "um objeto" if isinstance(value, Mapping) else "um número"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
