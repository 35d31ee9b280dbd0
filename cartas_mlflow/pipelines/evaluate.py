"""Any adapter, run or registered version on any table: metrics with their intervals, as an MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import decimal, say
from cartas_mlflow.data.records import load_records
from cartas_mlflow.errors import DataError
from cartas_mlflow.evaluation.confidence import METRICS, Interval, bootstrap
from cartas_mlflow.evaluation.metrics import metric_signatures, score_texts
from cartas_mlflow.pipelines import candidates
from cartas_mlflow.settings import RECORD_FIELDS
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.run import OUTCOME_TAG, open_run

LEVEL = 0.95
TITLES = {"rougeL": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF"}


def evaluate(
    config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, model: str | None = None
) -> dict[str, Interval]:
    """Generate for every record of ``data.path`` and measure.

    Args:
        model: ``models:/…``, a run's id, or an adapter folder; None: the champion of ``registry.name``.

    Raises:
        UserError: a model, table or setting that cannot be used.
    """
    import pandas as pd
    from mlflow import MlflowClient

    from cartas_mlflow.registry.requests import RequestError

    config, client = load_config(config_path, overrides), MlflowClient()
    name = model or f"models:/{config.registry.name}@champion"
    with open_run(config.tracking) as run:
        records = load_records(config.data)
        say(f"Leituras: {len(records.rows)} de {records.source}")
        generator = candidates.open_model(client, name, candidates.UNLIMITED)
        columns = {field: [getattr(record, field) for record in records.rows] for field in (*RECORD_FIELDS, "texto")}
        prompts = pd.DataFrame({field: columns[field] for field in RECORD_FIELDS})
        try:
            with progress_bar(len(prompts), "Gerando") as bar:
                texts = generator.write(prompts, on_progress=bar.update)
        except RequestError as error:
            raise DataError(f"{records.source}: {error.sentence}") from None
        intervals = {
            metric: bootstrap(
                metric,
                texts,
                columns["texto"],
                resamples=config.registry.resamples,
                seed=config.registry.seed,
                level=LEVEL,
            )
            for metric in METRICS
        }
        dataset = run.log_datasets({"evaluation": columns}, records.source, "texto")["evaluation"]
        figures = {**score_texts(texts, columns["texto"]), **_bounds(intervals)}
        model_id = candidates.model_id_behind(client, name)
        if model_id is None:
            run.log_metrics(figures)
        else:
            run.log_model_metrics(model_id, figures, dataset)
        run.log_params(
            {"evaluated.model": name, "data.path": config.data.path, "evaluation.records": len(records.rows)}
        )
        run.set_tags({OUTCOME_TAG: "finished", **{f"metric.{key}": text for key, text in metric_signatures().items()}})
        run.log_csv({**columns, "gerado": texts}, "samples/evaluation.csv")
        run.name(f"avaliação de {name}")
        lines = [
            f"{TITLES[metric]}: {decimal(i.value, 4)} ({decimal(i.low, 4)} a {decimal(i.high, 4)})"
            for metric, i in intervals.items()
        ]
        run.describe(
            f"**Avaliação** de `{name}` em {len(texts)} leituras de `{records.source}`, com intervalos de 95 %:\n\n- "
            + "\n- ".join(lines)
        )
        for line in lines:
            say(f"📊 {line}")
    return intervals


def _bounds(intervals: Mapping[str, Interval]) -> dict[str, float]:
    return {
        f"{metric}_{end}": getattr(interval, end) for metric, interval in intervals.items() for end in ("low", "high")
    }
