"""Write readings: one card from the command line, or a table of prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cartas_mlflow.config import DEFAULT_CONFIG, find_project_file, load_config
from cartas_mlflow.console import say
from cartas_mlflow.data.cells import clean_text
from cartas_mlflow.data.grids import Dialect
from cartas_mlflow.data.output import EXCEL, OUTPUT_SUFFIXES, check_place, write_table
from cartas_mlflow.data.tables import read_table
from cartas_mlflow.errors import DataError, SettingError
from cartas_mlflow.modeling.engine import check_engine
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.model import ReadingGenerator
from cartas_mlflow.registry.promotion import CHAMPION
from cartas_mlflow.registry.requests import RequestError, try_rows
from cartas_mlflow.settings import RECORD_FIELDS, ColumnNames, ExperimentConfig, ServingSettings
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.utility_runs import tell_project_run

NO_LIMIT = 10**9


@dataclass(frozen=True)
class Order:
    """What is to be written.

    ``table``: the columns of the output besides ``texto``; ``prompts``: the fields of each row; ``places``: what to
    call each row in an error; ``dialect``: how the table was written, where it is a delimited text.
    """

    table: pd.DataFrame
    prompts: pd.DataFrame
    places: Sequence[str]
    dialect: Dialect | None = None


@failures_told()
def generate(
    config_path: str = DEFAULT_CONFIG,
    overrides: Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
    prompt: Mapping[str, str] | None = None,
    table: str | None = None,
    output: str | None = None,
) -> list[str]:
    """Generate one reading and show it, or a table of them into a file.

    Decoding is the model's own, but for the ``generation.*`` settings among the overrides.

    Args:
        model: ``models:/…``, a run's id, or an adapter folder; None: the champion of ``registry.name``.
        prompt: fields of one reading.
        table: file with the fields as columns (``data.columns`` names them), of any kind that a training reads.
        output: the table with a column ``texto``, in the format of its ending, a csv in the dialect of the table;
            written whole or not at all. A row that cannot be answered has its reason in a column ``erro``.

    Raises:
        UserError: nothing or too much asked for; a model or table that cannot be used; no row that can be answered.
    """
    config = load_config(config_path, overrides)
    check_engine(config.serving.engine)
    order = _read_order(config, prompt or {}, table, output)
    name = model or f"{candidates.MODELS}{config.registry.name}@{CHAMPION}"
    candidate = candidates.choose(name)
    generator = candidate.open(config.serving.engine)
    typed = {key.removeprefix("generation.") for key in overrides or {} if key.startswith("generation.")}
    chosen = {key: getattr(config.generation, key) for key in typed}
    if chosen.get("do_sample") and "num_beams" not in typed:
        chosen["num_beams"] = 1  # beams were the training's way; who asks for a draw means a draw
    generator.defaults = generator.defaults.model_copy(update=chosen)
    limits = ServingSettings(
        any_card=config.serving.any_card, max_rows=NO_LIMIT, max_field_length=NO_LIMIT, max_tokens=NO_LIMIT
    )
    texts, problems = _write(generator, order, limits, table)
    if output is None:
        say("\n\n".join(texts.values()), whole=True)
    else:
        columns = {"texto": [texts.get(row, "") for row in range(len(order.prompts))]}
        if problems:
            columns["erro"] = [problems.get(row, "") for row in range(len(order.prompts))]
        write_table(order.table.assign(**columns), Path(output), order.dialect or EXCEL)
        if problems:
            first = min(problems)
            what = "linha ficou" if len(problems) == 1 else "linhas ficaram"
            say(
                f"⚠️ {len(problems)} {what} sem leitura, com o motivo na coluna erro (a primeira: "
                f"{order.places[first]}: {problems[first]})"
            )
        say(f"✅ Leituras gravadas: {len(texts)}, em {output}")
    if "MLFLOW_RUN_ID" in os.environ:
        client = candidates.connect()
        outcome = f"{len(texts)} leituras de `{name}`."
        tell_project_run(client, f"leituras de {name}", outcome, command="generate", training=candidate.run_id)
    return list(texts.values())


def _write(
    generator: ReadingGenerator, order: Order, limits: ServingSettings, table: str | None
) -> tuple[dict[int, str], dict[int, str]]:
    """Row -> its reading; row -> why it has none."""
    vocabulary = generator.vocabulary(limits)
    try:
        tried = list(try_rows(order.prompts, generator.served.used_fields, vocabulary, limits))
        problems = {row: error.clause for row, error in enumerate(tried) if isinstance(error, RequestError)}
        if len(problems) == len(tried):
            raise tried[0]
        rows = {row: fields for row, fields in enumerate(tried) if isinstance(fields, dict)}
        _tell_spellings(order.prompts, rows)
        with progress_bar(len(rows), "Gerando") as bar:
            texts = generator.write(pd.DataFrame(rows.values()), limits=limits, on_progress=bar.update)
    except RequestError as error:
        place = table if error.row is None else order.places[error.row - 1]
        raise DataError(f"{place}: {error.clause}" if place else error.clause) from None
    return dict(zip(rows, texts, strict=True)), problems


def _tell_spellings(prompts: pd.DataFrame, rows: Mapping[int, Mapping[str, str]]) -> None:
    for name in prompts.columns:
        typed = {clean_text(str(prompts[name].iloc[row])): fields[name] for row, fields in rows.items()}
        other = [f"{text} = {taken}" for text, taken in typed.items() if text != taken]
        if other:
            say(f"Entendido: {name}: {'; '.join(other[:5])}{'; …' if len(other) > 5 else ''}")


def _read_order(config: ExperimentConfig, prompt: Mapping[str, str], table: str | None, output: str | None) -> Order:
    if (table is None) == (not prompt):
        raise SettingError(
            "Diga o que gerar: --carta (com --evento, --secao e --tema), ou --table ARQUIVO com os pedidos."
        )
    if table is None:
        order = Order(*[pd.DataFrame([dict(prompt)])] * 2, [""])
    else:
        order = _read_prompts(table, config.data.sheet, config.data.columns)
    if output is not None or table is not None:
        _check_output(output, table)
    return order


def _read_prompts(table: str, sheet: str | None, columns: ColumnNames) -> Order:
    try:
        names = {field: name for field in RECORD_FIELDS if (name := getattr(columns, field)) is not None}
        content = read_table(find_project_file(table), names, sheet=sheet, optional=tuple(names))
    except DataError as error:
        raise DataError(str(error).replace("data.path", "--table")) from None
    for remark in content.remarks:
        say(remark)
    prompts = {field: [cells.get(column, "") for _, cells in content.rows] for field, column in content.fields.items()}
    kept = [column for column in content.columns if column not in {"texto", "erro"}]
    frame = pd.DataFrame([{column: cells.get(column, "") for column in kept} for _, cells in content.rows])
    index = range(len(content.rows))
    return Order(
        frame,
        pd.DataFrame(prompts, index=index),
        [f"{table}, linha {line}" for line, _ in content.rows],
        content.dialect,
    )


def _check_output(output: str | None, table: str | None) -> None:
    if output is None or Path(output).suffix.lower() not in OUTPUT_SUFFIXES:
        raise SettingError("Falta --output com a terminação csv, xlsx, jsonl ou parquet: onde gravar as leituras.")
    check_place(output, None if table is None else find_project_file(table), "a própria tabela de pedidos")
