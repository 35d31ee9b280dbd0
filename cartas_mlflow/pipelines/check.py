"""Know before training: read a table as training would, and tell all there is to know of it. Loads no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartas_mlflow.config import DEFAULT_CONFIG, find_project_file, load_config
from cartas_mlflow.console import say
from cartas_mlflow.data.output import OUTPUT_SUFFIXES, check_place, write_table
from cartas_mlflow.data.records import Records
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.loading import load_tokenizer
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.utility_runs import tell_project_run
from cartas_mlflow.training import preparation, review


def check(
    config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, output: str | None = None
) -> Records:
    """Review the table of ``data.path``; it returns where training would go on.

    Args:
        output: a file for the usable rows, cleaned, under the usual column names (csv, xlsx, jsonl or parquet).

    Raises:
        UserError: the table cannot be trained on, with the reason; a setting, a base or an output that cannot be used.
    """
    config = load_config(config_path, overrides)
    _check_output(output, config)
    say(f"=== CONFERINDO A TABELA {config.data.path} ===")
    records = preparation.load_data(config)
    review.review_reading(records)
    review.review_contents(records)
    if output is not None:
        _write(records, output)

    say("--- Como o treino a usaria ---")
    data = preparation.split_data(config, records)
    review.review_duplicates(records, data.split)
    settled = preparation.settle_base(config, config_path, overrides or {}, weights=False)
    train, validation = preparation.tokenize_data(config, load_tokenizer(settled.location.folder), data)
    review.review_tokens(settled.config, train, validation)
    review.review_time(settled.config, settled.location, train, validation)
    say("✅ Pode treinar com esta tabela")
    if "MLFLOW_RUN_ID" in os.environ:
        _tell_project_run(config, records)
    return records


def _check_output(output: str | None, config: ExperimentConfig) -> None:
    if output is None:
        return
    if Path(output).suffix.lower() not in OUTPUT_SUFFIXES:
        raise SettingError(f"--output {output} precisa da terminação csv, xlsx, jsonl ou parquet.")
    check_place(output, find_project_file(config.data.path), "a própria tabela")


def _write(records: Records, output: str) -> None:
    import pandas as pd

    write_table(pd.DataFrame(review.cleaned_rows(records)), Path(output))
    say(f"💾 Tabela limpa gravada em {output}: {len(records.rows)} leituras")


def _tell_project_run(config: ExperimentConfig, records: Records) -> None:
    from cartas_mlflow.registry import candidates

    what = f"{len(records.rows)} leituras de {records.cards} cartas em `{config.data.path}`: pode treinar."
    tell_project_run(candidates.connect(), f"conferência de {config.data.path}", what, command="check")
