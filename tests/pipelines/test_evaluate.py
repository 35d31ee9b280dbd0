"""A model measured on a table: figures with intervals, on the run, on the logged model and on the dataset."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from trainings import Trainings

from cartas_mlflow.cli import main
from cartas_mlflow.console import pointed
from cartas_mlflow.errors import DataError, RegistryError
from cartas_mlflow.evaluation.confidence import BITS
from cartas_mlflow.evaluation.metrics import METRIC_NAMES
from cartas_mlflow.pipelines.evaluate import evaluate
from cartas_mlflow.registry.candidates import find_candidate
from cartas_mlflow.registry.promotion import register

FIELDS = ["carta", "evento", "secao", "tema"]


@pytest.fixture
def table(trainings: Trainings, tmp_path: Path) -> Path:
    """The validation records of the good training, as a table of their own."""
    path = tmp_path / "validacao.csv"
    samples(trainings.runs["good"], "final").rename(columns={"real": "texto"})[[*FIELDS, "texto"]].to_csv(
        path, index=False
    )
    return path


@pytest.fixture
def settings(table: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """An experiment of this test's own."""
    return {
        "data.path": str(table),
        "tracking.experiment": f"avaliação {request.node.name}",
        "tracking.system_metrics": "false",
        "registry.resamples": "500",
    }


def samples(run_id: str, name: str) -> pd.DataFrame:
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/samples/{name}.csv")
    return pd.DataFrame(csv.DictReader(io.StringIO(text, newline="")))


def runs_of(settings: dict[str, Any]) -> list[Run]:
    experiment = MlflowClient().get_experiment_by_name(settings["tracking.experiment"])
    return list(MlflowClient().search_runs([experiment.experiment_id])) if experiment else []


def test_the_validation_set_gives_the_trainings_own_figures(
    trainings: Trainings, settings: dict[str, Any], said: list[str]
) -> None:
    intervals = evaluate(overrides=settings, model=trainings.runs["good"])
    (run,) = runs_of(settings)
    final = mlflow.get_run(trainings.runs["good"]).data.metrics
    for name in METRIC_NAMES:
        assert run.data.metrics[f"evaluation/{name}"] == pytest.approx(final[f"final/{name}"], abs=1e-12)
    assert run.data.metrics[f"evaluation/{BITS}"] == pytest.approx(final[f"final/{BITS}"], abs=1e-5)
    assert set(intervals) == {BITS, "rougeL", "bleu", "chrf"}
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(run.data.metrics[f"evaluation/{name}"], abs=1e-12)
        bounds = (run.data.metrics[f"evaluation/{name}_{end}"] for end in ("low", "high"))
        assert tuple(bounds) == (interval.low, interval.high)
        assert interval.low <= interval.value <= interval.high
    generated = samples(run.info.run_id, "evaluation")
    real = samples(trainings.runs["good"], "final").set_index("real")
    assert list(generated["gerado"]) == [real.loc[text, "gerado"] for text in generated["texto"]]
    assert said[0] == f"Leituras: 42, de {settings['data.path']}"


def test_the_run_says_what_was_measured(trainings: Trainings, settings: dict[str, Any], said: list[str]) -> None:
    run_id = trainings.runs["good"]
    chrf = evaluate(overrides=settings, model=run_id)["chrf"]
    (run,) = runs_of(settings)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"avaliação de {run_id}"
    assert run.data.params == {
        "evaluation.model": run_id,
        "evaluation.model_id": find_candidate(MlflowClient(), run_id).model_id,
        "evaluation.records": "42",
        "evaluation.seen_in_training": "0",
        "data.path": settings["data.path"],
    }
    assert run.data.tags["outcome"] == "finished"
    assert run.data.tags["metric.chrf"].startswith("nrefs:1|case:lc")
    line = f"chrF: {shown(chrf.value)} ({shown(chrf.low)} a {shown(chrf.high)})"
    assert f"- {line}" in run.data.tags["mlflow.note.content"]
    assert f"📊 {pointed(line)}" in said


def test_the_figures_are_linked_to_the_model_and_the_dataset(trainings: Trainings, settings: dict[str, Any]) -> None:
    chrf = evaluate(overrides=settings, model=trainings.runs["good"])["chrf"]
    client = MlflowClient()
    model_id = find_candidate(client, trainings.runs["good"]).model_id
    (run,) = runs_of(settings)
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "validacao"
    assert [tag.value for tag in dataset.tags if tag.key == "mlflow.data.context"] == ["evaluation"]
    linked = [
        metric
        for metric in client.get_logged_model(model_id).metrics
        if metric.key == "evaluation/chrf_low" and metric.run_id == run.info.run_id
    ]
    assert [(metric.value, metric.dataset_name, metric.dataset_digest) for metric in linked] == [
        (chrf.low, "validacao", dataset.dataset.digest)
    ]
    found = client.search_logged_models(
        experiment_ids=[mlflow.get_run(trainings.runs["good"]).info.experiment_id],
        filter_string=f"metrics.`evaluation/chrf` > {chrf.value - 1e-6}",
        datasets=[{"dataset_name": "validacao", "dataset_digest": dataset.dataset.digest}],
    )
    assert model_id in [model.model_id for model in found]


def test_readings_of_the_training_are_counted_and_said(
    trainings: Trainings, settings: dict[str, Any], said: list[str]
) -> None:
    everything = {**settings, "data.path": str(trainings.table)}
    evaluate(overrides=everything, model=trainings.runs["good"])
    (run,) = runs_of(settings)
    assert run.data.params["evaluation.records"] == "84"
    assert run.data.params["evaluation.seen_in_training"] == "42"
    assert "⚠️ 42 delas estavam no treino deste modelo: as métricas medem também memória." in said
    assert "42 dessas leituras estavam no treino do modelo." in run.data.tags["mlflow.note.content"]


def test_a_folder_is_measured_without_a_logged_model(trainings: Trainings, settings: dict[str, Any]) -> None:
    adapter = trainings.adapters["good"]
    from_folder = evaluate(overrides=settings, model=str(adapter))
    (run,) = runs_of(settings)
    assert run.data.params["evaluation.model_id"] == "none"
    assert run.data.params["evaluation.seen_in_training"] == "0"
    assert from_folder == evaluate(overrides=settings, model=trainings.runs["good"])


def test_a_folder_away_from_its_training_does_not_know_its_readings(
    trainings: Trainings, settings: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(trainings.adapters["good"], tmp_path / "fora" / "adapter")
    evaluate(overrides=settings, model=str(tmp_path / "fora" / "adapter"))
    (run,) = runs_of(settings)
    assert run.data.params["evaluation.seen_in_training"] == "desconhecido"


def test_the_champion_is_the_default(trainings: Trainings, settings: dict[str, Any]) -> None:
    client, name = MlflowClient(), "modelo-de-evaluate"
    version = register(client, find_candidate(client, trainings.runs["terse"]).model_id, name).version
    client.set_registered_model_alias(name, "champion", version)
    intervals = evaluate(overrides={**settings, "registry.name": name})
    assert intervals["chrf"].value == pytest.approx(mlflow.get_run(trainings.runs["terse"]).data.metrics["final/chrf"])


def test_any_table_will_do_cards_unknown_to_the_model_too(
    trainings: Trainings, settings: dict[str, Any], bundled_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    rows = [{**row, "tema": "longo " * 60} for row in bundled_rows[200:203]]
    pd.DataFrame(rows).rename(columns={"carta": "arcano"}).to_csv(tmp_path / "outra.csv", index=False)
    other = {**settings, "data.path": str(tmp_path / "outra.csv"), "data.columns.carta": "arcano"}
    evaluate(overrides=other, model=trainings.runs["good"])
    assert runs_of(settings)[0].data.params["evaluation.records"] == "3"


def test_a_table_without_a_field_of_the_model_is_one_sentence(
    trainings: Trainings, settings: dict[str, Any], table: Path
) -> None:
    pd.read_csv(table).drop(columns="tema").to_csv(table, index=False)
    without = {**settings, "data.columns.tema": "none", "data.template": "{carta} {evento} {secao}"}
    with pytest.raises(DataError) as refused:
        evaluate(overrides=without, model=trainings.runs["good"])
    assert str(refused.value) == f"{table}: o campo tema está vazio; escreva um texto."
    (run,) = runs_of(settings)
    assert run.info.status == "FAILED"


def test_a_model_that_does_not_exist_leaves_no_run(trainings: Trainings, settings: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match="Ainda não há campeã em models:/nenhum@champion"):
        evaluate(overrides={**settings, "registry.name": "nenhum"})
    assert runs_of(settings) == []


def test_the_command_measures(trainings: Trainings, settings: dict[str, Any], said: list[str]) -> None:
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    assert main(["evaluate", "--model", trainings.runs["good"], *words]) == 0
    assert said[-1].startswith("🔎 Execução ")
    assert main(["evaluate", "--model", "deadbeef", *words]) == 2
    assert said[-1] == "❌ A execução deadbeef não existe neste MLflow; confira o id e MLFLOW_TRACKING_URI."


def shown(value: float) -> str:
    return f"{value:.4f}".replace(".", ",")
