"""Write readings: one card from the command line, or a table of prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import say
from cartas_mlflow.data.records import clean_text
from cartas_mlflow.data.tables import read_table
from cartas_mlflow.errors import DataError, SettingError
from cartas_mlflow.pipelines import candidates
from cartas_mlflow.settings import RECORD_FIELDS, ExperimentConfig, ServingSettings
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.run import check_tracking_server

if TYPE_CHECKING:
    import pandas as pd

OUTPUT_SUFFIXES = (".csv", ".xlsx", ".jsonl", ".parquet")


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

    Args:
        model: ``models:/…``, a run's id, or an adapter folder; None: the champion of ``registry.name``.
        prompt: fields of one reading.
        table: csv, xlsx, jsonl or parquet file with the fields as columns.
        output: the table with a column ``texto``, in the format of its ending; written whole or not at all.

    Raises:
        UserError: nothing or too much asked for; a model, table or field that cannot be used.
    """
    from mlflow import MlflowClient

    from cartas_mlflow.registry.requests import RequestError

    config = load_config(config_path, overrides)
    prompts, target = _read_prompts(config, prompt or {}, table, output)
    if model is None or not Path(model).is_dir():
        check_tracking_server()
    serving = ServingSettings(any_card=config.serving.any_card, max_rows=candidates.UNLIMITED.max_rows)
    generator = candidates.open_model(MlflowClient(), model or f"models:/{config.registry.name}@champion", serving)
    decoding = {
        key.removeprefix("generation."): value for key, value in (overrides or {}).items() if "generation." in key
    }
    generator.defaults = config.generation if decoding else generator.defaults
    try:
        with progress_bar(len(prompts), "Gerando") as bar:
            texts = generator.write(prompts, on_progress=bar.update)
    except RequestError as error:
        raise DataError(error.sentence) from None
    if target is None:
        say("\n\n".join(texts))
    else:
        _write_table(prompts.assign(texto=texts), target)
        say(f"✅ {len(texts)} leituras gravadas em: {target}")
    return texts


def _read_prompts(
    config: ExperimentConfig, prompt: Mapping[str, str], table: str | None, output: str | None
) -> tuple[pd.DataFrame, Path | None]:
    import pandas as pd

    if (table is None) == (not prompt):
        raise SettingError(
            "Diga o que gerar: --carta (com --evento, --secao e --tema), ou --table ARQUIVO com os pedidos."
        )
    if table is None:
        return pd.DataFrame([{name: clean_text(prompt.get(name, "")) for name in RECORD_FIELDS}]), None
    if output is None or Path(output).suffix.lower() not in OUTPUT_SUFFIXES:
        raise SettingError("Falta --output com a terminação csv, xlsx, jsonl ou parquet: onde gravar as leituras.")
    if not Path(output).resolve().parent.is_dir():
        raise SettingError(f"A pasta de --output {output} não existe; crie-a ou indique outra.")
    columns = {
        field: column for field, column in config.data.columns.model_dump().items() if column and field != "texto"
    }
    rows = read_table(Path(table), config.data.sheet).rows
    frame = pd.DataFrame(
        [
            {field: clean_text(cells[column]) for field, column in columns.items() if column in cells}
            for _, cells in rows
        ]
    )
    return frame, Path(output)


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix.lower() == ".csv":
            frame.to_csv(aside, index=False)
        elif path.suffix.lower() == ".xlsx":
            frame.to_excel(aside, index=False)
        elif path.suffix.lower() == ".parquet":
            frame.to_parquet(aside, index=False)
        else:
            lines = (json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records"))
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
