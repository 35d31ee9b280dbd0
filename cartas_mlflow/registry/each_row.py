"""A table answered row by row: where one cannot be, its reason stands beside the others' readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from cartas_mlflow.registry.requests import RequestError, read_parameters, try_rows

if TYPE_CHECKING:
    from cartas_mlflow.registry.model import ReadingGenerator

ERROR_COLUMN = "error_column"


def answer_each(generator: ReadingGenerator, prompts: pd.DataFrame, params: Mapping[str, Any]) -> pd.DataFrame:
    """As many rows as there are prompts, with ``texto`` and ``erro``, one of which is empty: ``""``, not a null, which
    MLflow's Spark function turns into a word.

    Raises:
        RequestError: a parameter that cannot be used, a column that is missing, more work than one request may ask for.
    """
    _, sequences = read_parameters(params, generator.defaults)
    if sequences > 1:
        raise RequestError(f"{ERROR_COLUMN}=true dá uma leitura por linha; retire num_return_sequences.")
    vocabulary = generator.vocabulary(generator.serving)
    tried = list(try_rows(prompts, generator.served.used_fields, vocabulary, generator.serving))
    rows = [row for row in tried if isinstance(row, dict)]
    texts = iter(generator.write(pd.DataFrame(rows), params, limits=generator.serving) if rows else ())
    answers = [("", row.clause) if isinstance(row, RequestError) else (next(texts), "") for row in tried]
    return pd.DataFrame(answers, columns=["texto", "erro"])
