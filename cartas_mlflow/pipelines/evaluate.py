"""Any adapter, run or registered version on any table: metrics with their intervals, as an MLflow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import decimal, pointed, say
from cartas_mlflow.data.records import load_records
from cartas_mlflow.data.splitting import sample_records
from cartas_mlflow.errors import DataError
from cartas_mlflow.evaluation.confidence import BITS, Answers, Interval, bootstrap
from cartas_mlflow.evaluation.metrics import metric_signatures, score_texts
from cartas_mlflow.modeling.engine import check_engine
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.model import ReadingGenerator
from cartas_mlflow.registry.promotion import CHAMPION
from cartas_mlflow.registry.requests import RequestError
from cartas_mlflow.registry.texts import TrainedOn, reading_id, trained_on
from cartas_mlflow.settings import RECORD_FIELDS, ExperimentConfig
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.metric_names import evaluated
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.report import METRIC_TITLES
from cartas_mlflow.tracking.run import OUTCOME_TAG
from cartas_mlflow.tracking.utility_runs import tuck_away

LEVEL = 0.95


@failures_told()
def evaluate(
    config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, model: str | None = None
) -> dict[str, Interval]:
    """Generate for the records of ``data.path`` and measure; the metrics with their intervals, by name.

    Of more than ``evaluation.max_records`` a sample is taken, the same one every time.

    Args:
        model: ``models:/…``, a run's id, or an adapter folder; None: the champion of ``registry.name``.

    Raises:
        UserError: a model, table or setting that cannot be used.
    """
    config = load_config(config_path, overrides)
    check_engine(config.serving.engine)
    name = model or f"{candidates.MODELS}{config.registry.name}@{CHAMPION}"
    client = candidates.connect()
    candidate = candidates.find_candidate(client, name)
    with open_run(config.tracking) as run:
        tuck_away(client, run.id, "evaluate", candidate.run_id)
        records = load_records(config.data)
        measured = sample_records(records.rows, config.evaluation.max_records, config.data.split_seed)
        columns = {field: [getattr(record, field) for record in measured] for field in (*RECORD_FIELDS, "texto")}
        seen = _count_seen(trained_on(candidate), columns["texto"])
        say(f"Leituras: {len(records.rows)}, de {records.source}")
        if len(measured) < len(records.rows):
            say(f"Medidas: {len(measured)} delas, sorteadas com as cartas na proporção (evaluation.max_records)")
        if seen:
            say(f"⚠️ {seen} delas estavam no treino deste modelo: as métricas medem também memória.")
        answers = _answer(candidate.open(config.serving.engine), columns, records.source)
        texts, intervals = answers.texts, _measure(answers, columns["texto"], config)

        dataset = run.log_datasets({"evaluation": columns}, records.source, "texto")["evaluation"]
        bounds = {f"{metric}_{end}": getattr(i, end) for metric, i in intervals.items() for end in ("low", "high")}
        measured = {**score_texts(texts, columns["texto"]), BITS: intervals[BITS].value, **bounds}
        figures = {evaluated(name): value for name, value in measured.items()}
        if candidate.model_id is None:
            run.log_metrics(figures)
        else:
            run.log_model_metrics(candidate.model_id, figures, dataset)
        run.log_params(
            {
                "evaluation.model": name,
                "evaluation.model_id": candidate.model_id,
                "evaluation.records": len(texts),
                "evaluation.seen_in_training": "desconhecido" if seen is None else seen,
                "data.path": config.data.path,
            }
        )
        run.set_tags({OUTCOME_TAG: "finished", **{f"metric.{key}": text for key, text in metric_signatures().items()}})
        if run.logs_texts:
            run.log_csv({**columns, "gerado": texts, BITS: answers.bits}, "samples/evaluation.csv")
        run.name(f"avaliação de {name}")
        lines = [
            f"{METRIC_TITLES[metric]}: {decimal(i.value, 4)} ({decimal(i.low, 4)} a {decimal(i.high, 4)})"
            for metric, i in intervals.items()
        ]
        run.describe(
            f"**Avaliação** de `{name}` em {len(texts)} leituras de `{config.data.path}`, com intervalos de 95 %:\n\n- "
            + "\n- ".join(lines)
            + (f"\n\n{seen} dessas leituras estavam no treino do modelo." if seen else "")
        )
        for line in lines:
            say(f"📊 {pointed(line)}")
        say(f"🔎 Execução {run.id} no experimento {run.experiment}; veja em: {run.page}")
    return intervals


def _count_seen(training: TrainedOn | None, texts: Sequence[str]) -> int | None:
    return None if training is None else sum(reading_id(text) in training.train for text in texts)


def _answer(generator: ReadingGenerator, columns: Mapping[str, Sequence[str]], source: str) -> Answers:
    prompts = pd.DataFrame({field: columns[field] for field in RECORD_FIELDS})
    try:
        with progress_bar(len(prompts), "Gerando") as bar:
            texts = generator.write(prompts, on_progress=bar.update)
        with progress_bar(len(prompts), "Medindo os textos reais") as bar:
            return Answers(texts, generator.bits(prompts, columns["texto"], on_progress=bar.update))
    except RequestError as error:
        raise DataError(f"{source}: {error.clause}") from None


def _measure(answers: Answers, real: Sequence[str], config: ExperimentConfig) -> dict[str, Interval]:
    settings = config.registry
    return {
        metric: bootstrap(metric, answers, real, resamples=settings.resamples, seed=settings.seed, level=LEVEL)
        for metric in answers.metrics
    }
