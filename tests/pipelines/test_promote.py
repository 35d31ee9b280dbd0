"""From a finished training to the registry: which run is taken, on what it is compared, what the user is told."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from trainings import EXPERIMENT, RECIPE, Trainings, environment_elsewhere, in_store

from cartas_mlflow.cli import main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.console import pointed
from cartas_mlflow.errors import RegistryError, SettingError, TrackingError
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.pipelines.promote import promote as promote_run
from cartas_mlflow.pipelines.train import train
from cartas_mlflow.registry.contest import RegisteredModel, give_back
from cartas_mlflow.registry.model import ServedModel, log_reading_model
from cartas_mlflow.registry.promotion import champion_of, version_number
from cartas_mlflow.registry.texts import reading_id
from cartas_mlflow.settings import ModelSettings, ServingSettings

Promote = Callable[..., RegisteredModel]


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A registered model of this test's own, decided by ROUGE-L."""
    return {
        "registry.name": f"modelo-{abs(hash(request.node.nodeid))}",
        "registry.metric": "rougeL",
        "tracking.experiment": EXPERIMENT,
    }


@pytest.fixture
def promote(trainings: Trainings, settings: dict[str, Any]) -> Promote:
    """Promote one of the finished trainings."""

    def by_name(variant: str, **options: Any) -> RegisteredModel:
        return promote_run(overrides=settings, run_id=trainings.runs[variant], **options)

    return by_name


def champion(settings: dict[str, Any]) -> str | None:
    return version_number(champion_of(MlflowClient(), settings["registry.name"]))


def read_csv(run_id: str, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"), newline="")))


def another_run(trainings: Trainings, samples: list[dict[str, str]] | None, split: list[dict[str, str]] | None) -> str:
    """A run with the good training's model, and what it is said to have been trained and validated on."""
    adapter = trainings.adapters["good"]
    base = find_base(ModelSettings(name=ServedModel.load(adapter).base_name, fallback=None))
    mlflow.set_experiment("outro")
    with mlflow.start_run() as run:
        log_reading_model(adapter, base, ServingSettings(), description="…", embed_base=False, step=0)
        for path, rows in (("samples/final.csv", samples), ("data/split.csv", split)):
            if rows is not None:
                stream = io.StringIO(newline="")
                writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
                mlflow.log_text(stream.getvalue(), path)
    return run.info.run_id


def test_the_ladder_from_a_terse_model_to_a_good_one(
    promote: Promote, settings: dict[str, Any], said: list[str]
) -> None:
    first = promote("terse")
    assert (first.version, first.decision.promoted, champion(settings)) == ("1", True, "1")

    better = promote("good")
    assert (better.version, better.decision.promoted, champion(settings)) == ("2", True, "2")
    assert better.decision.comparison.records == 42
    assert better.decision.remark is None

    equal = promote("as_good")
    assert (equal.version, equal.decision.promoted, champion(settings)) == ("3", False, "2")
    assert equal.decision.comparison.difference.value == 0

    worse = promote("terse")
    assert (worse.version, worse.decision.promoted, champion(settings)) == ("1", False, "2")

    name = settings["registry.name"]
    assert [line for line in said if line.startswith(("Registrado", "🏆", "➖", "Comparando", "Para servir"))] == [
        f"Registrado: {name}, versão 1",
        "🏆 Primeira campeã: o posto estava vago.",
        f"Para servir: mlflow models serve -m models:/{name}@champion --env-manager local",
        f"Registrado: {name}, versão 2",
        "Comparando com a campeã (versão 1) em 42 leituras...",
        f"🏆 {pointed(better.decision.reason)}",
        f"Para servir: mlflow models serve -m models:/{name}@champion --env-manager local",
        f"Registrado: {name}, versão 3",
        "Comparando com a campeã (versão 2) em 42 leituras...",
        f"➖ {pointed(equal.decision.reason)}",
        f"Registrado: {name}, versão 1",
        "Comparando com a campeã (versão 2) em 42 leituras...",
        f"➖ {pointed(worse.decision.reason)}",
    ]


def test_by_bits_two_ways_of_decoding_are_one_model(
    trainings: Trainings, settings: dict[str, Any], said: list[str]
) -> None:
    usual = {key: value for key, value in settings.items() if key != "registry.metric"}
    for variant in ("terse", "good"):
        decision = promote_run(overrides=usual, run_id=trainings.runs[variant]).decision
    assert not decision.promoted
    assert (decision.comparison.records, decision.comparison.difference.value) == (42, 0)
    assert decision.reason.startswith("Bits por caractere 0,0000 acima da versão 1 em 42 leituras;")
    assert said[-1].startswith("As duas versões têm os mesmos pesos, e só a maneira de gerar difere;")


def test_force_and_rollback(promote: Promote, settings: dict[str, Any], said: list[str]) -> None:
    promote("good")
    assert promote("terse", force=True).decision.promoted
    assert champion(settings) == "2"
    assert give_back(settings["registry.name"]) == ("2", "1")
    assert champion(settings) == "1"
    assert said[-1] == (f"↩️ {settings['registry.name']}: a versão 2 deixou o posto e a versão 1 voltou a ser a campeã.")
    with pytest.raises(RegistryError, match="não há a quem devolver o posto"):
        give_back(settings["registry.name"])


def test_a_champion_is_not_compared_on_what_it_was_trained_on(
    promote: Promote, trainings: Trainings, settings: dict[str, Any], said: list[str]
) -> None:
    promote("other_split")
    known = {
        row["reading"] for row in read_csv(trainings.runs["other_split"], "data/split.csv") if row["side"] == "train"
    }
    table = read_csv(trainings.runs["good"], "samples/final.csv")
    unseen = [row for row in table if reading_id(row["real"]) not in known]
    assert 10 < len(unseen) < 32

    decision = promote("good", force=True).decision
    assert decision.remark == (
        f"As divisões diferem: {42 - len(unseen)} das 42 leituras de validação ficaram fora da comparação, porque "
        "estavam no treino (a versão 1 treinou com outra divisão)."
    )
    assert decision.remark in said
    assert f"Comparando com a campeã (versão 1) em {len(unseen)} leituras..." in said
    version = MlflowClient().get_model_version(settings["registry.name"], "2")
    assert version.description.endswith(decision.remark)


def test_a_reading_known_under_another_prompt_is_known(
    promote: Promote, trainings: Trainings, settings: dict[str, Any]
) -> None:
    table = read_csv(trainings.runs["good"], "samples/final.csv")
    split = [
        {"id": f"{number:012}", "reading": reading_id(row["real"]), "side": "train" if number < 20 else "validation"}
        for number, row in enumerate(table)
    ]
    promote_run(overrides=settings, run_id=another_run(trainings, table, split))
    decision = promote("good").decision
    assert decision.comparison.records == 22
    assert decision.remark.startswith("As divisões diferem: 20 das 42 leituras de validação ficaram fora")


def test_a_champion_evaluated_on_other_readings_is_evaluated_again(
    promote: Promote, trainings: Trainings, settings: dict[str, Any]
) -> None:
    table = read_csv(trainings.runs["good"], "samples/final.csv")
    split = [{"id": row["id"], "reading": reading_id(row["real"]), "side": "validation"} for row in table[:30]]
    promote_run(overrides=settings, run_id=another_run(trainings, table, split))
    decision = promote("good").decision
    assert decision.comparison.records == 42
    assert decision.remark == "As divisões diferem: a versão 1 foi reavaliada nas leituras de validação desta."


def test_a_champion_whose_readings_are_unknown_gives_way_only_to_force(
    promote: Promote, trainings: Trainings, settings: dict[str, Any]
) -> None:
    promote_run(overrides=settings, run_id=another_run(trainings, None, None))
    decision = promote("good").decision
    assert decision.reason == "Só 0 leituras servem para comparar com a versão 1, e são precisas 20: fica como está."
    assert decision.remark == "Não se sabe mais com quais leituras a versão 1 treinou (data/split.csv)."
    assert promote("good", force=True).decision.promoted


def test_a_champion_that_asks_for_more_fields_cannot_be_compared(
    promote: Promote, trainings: Trainings, settings: dict[str, Any]
) -> None:
    promote("good")
    table = [{**row, "tema": ""} for row in read_csv(trainings.runs["good"], "samples/final.csv")]
    split = [{"id": row["id"], "reading": reading_id(row["real"]), "side": "validation"} for row in table]
    decision = promote_run(overrides=settings, run_id=another_run(trainings, table, split)).decision
    assert not decision.promoted
    assert decision.remark == (
        "A versão 2 não pode responder a estas leituras: Linha 1: o campo tema está vazio; escreva um texto."
    )


def test_a_challenger_without_its_samples_cannot_be_compared(
    promote: Promote, trainings: Trainings, settings: dict[str, Any]
) -> None:
    promote("good")
    run_id = another_run(trainings, None, None)
    with pytest.raises(RegistryError, match=f"A execução {run_id} não tem samples/final.csv"):
        promote_run(overrides=settings, run_id=run_id)
    assert promote_run(overrides=settings, run_id=run_id, force=True).decision.promoted


def test_without_a_run_the_best_of_the_experiment_is_taken(
    trainings: Trainings, settings: dict[str, Any], said: list[str]
) -> None:
    final = {run: mlflow.get_run(run).data.metrics["final/rougeL"] for run in trainings.runs.values()}
    promoted = promote_run(overrides=settings)
    run_id = MlflowClient().get_model_version(settings["registry.name"], promoted.version).run_id
    assert final[run_id] == max(final.values())
    assert said[0].startswith(f"Melhor treinamento do experimento {EXPERIMENT}: lr 1e-09 · r16 · writing-t5")
    assert run_id in said[0]


def test_a_training_that_did_not_finish_is_never_the_best(trainings: Trainings, settings: dict[str, Any]) -> None:
    client = MlflowClient()
    experiment = client.create_experiment(f"interrompidos-{settings['registry.name']}")
    for outcome in ("interrupted", "failed", "finished"):
        run = client.create_run(experiment, tags={"outcome": outcome})
        client.log_metric(run.info.run_id, "final/rougeL", 0.9)
        client.set_terminated(run.info.run_id)
    with pytest.raises(RegistryError, match="não tem nenhum treinamento concluído com modelo; treine um antes"):
        promote_run(overrides={**settings, "tracking.experiment": f"interrompidos-{settings['registry.name']}"})


def test_inside_mlflow_run_the_experiment_is_its_own(
    trainings: Trainings, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    for name, kept in ((None, None), ("minha promoção", "minha promoção")):
        run = client.create_run(experiment, run_name=name)
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        promoted = promote_run(overrides={key: settings[key] for key in ("registry.name", "registry.metric")})
        data = client.get_run(run.info.run_id)
        assert data.info.run_name == (kept or f"promoção de {promoted.name} {promoted.version}")
        assert data.data.tags["mlflow.note.content"].startswith(promoted.decision.reason)
        client.set_terminated(run.info.run_id)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"run_id": "deadbeef"}, "A execução deadbeef não existe neste MLflow; confira o id e MLFLOW_TRACKING_URI."),
        (
            {"overrides": {"tracking.experiment": "nenhum"}},
            "O experimento nenhum não existe; indique em tracking.experiment o dos treinamentos.",
        ),
        (
            {"overrides": {"tracking.experiment": "Default"}},
            "O experimento Default não tem nenhum treinamento concluído com modelo; treine um antes, ou indique outro "
            "em tracking.experiment.",
        ),
    ],
    ids=["run", "experiment", "empty experiment"],
)
def test_what_cannot_be_promoted_is_one_sentence(trainings: Trainings, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RegistryError) as refused:
        promote_run(**options)
    assert str(refused.value) == sentence


def test_a_run_without_a_model_is_no_training(trainings: Trainings) -> None:
    run = MlflowClient().create_run("0")
    with pytest.raises(RegistryError) as refused:
        promote_run(run_id=run.info.run_id)
    assert str(refused.value) == (
        f"A execução {run.info.run_id} não tem o modelo cartas-gerador: ela não é um treinamento que chegou ao fim."
    )


def test_a_server_that_does_not_answer_is_said_in_seconds(trainings: Trainings) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"O servidor MLflow em http://127\.0\.0\.1:9 não responde"):
        promote_run()


@pytest.mark.parametrize("name", ["a/b", "a:b", "o'outro", ""])
def test_a_name_that_the_registry_does_not_take_is_a_setting_error(name: str) -> None:
    with pytest.raises(SettingError, match=r"nome do modelo no registro, sem / : @ \? nem aspas"):
        promote_run(overrides={"registry.name": name})


def test_the_command_takes_its_own_words(trainings: Trainings, settings: dict[str, Any]) -> None:
    named = [word for key, value in settings.items() for word in (f"--{key}", value)]
    assert main(["promote", "--run_id", trainings.runs["good"], *named]) == 0
    assert main(["promote", "--run_id", trainings.runs["terse"], "--force", "true", *named]) == 0
    assert champion(settings) == "2"
    assert main(["promote", "--rollback", "true", *named]) == 0
    assert champion(settings) == "1"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--force", "sim"], "❌ --force sim não serve; deve ser true ou false."),
        (
            ["--rollback", "true", "--run_id", "x"],
            "❌ rollback=true não combina com run_id nem com force; peça uma coisa de cada vez.",
        ),
        (["--runid", "x"], "❌ O comando promote não conhece --runid; você quis dizer --run_id?"),
        (
            ["--registry.confidenc", "0.9"],
            "❌ A configuração registry.confidenc (linha de comando) não existe; você quis dizer registry.confidence?",
        ),
    ],
    ids=["switch", "both", "word", "setting"],
)
def test_a_wrong_word_is_one_sentence(words: list[str], sentence: str, said: list[str]) -> None:
    assert main(["promote", *words]) == 2
    assert said == [sentence]


def test_a_training_may_end_with_the_promotion(
    writing_base: Path, finished_trainings: Trainings, empty_store: str, tmp_path: Path, said: list[str]
) -> None:
    result = train(
        overrides={
            **RECIPE,
            "model.name": str(writing_base),
            "data.path": str(finished_trainings.table),
            "tracking.output_dir": str(tmp_path),
            "training.learning_rate": "1e-9",
            "registry.register_model": "true",
        }
    )
    assert mlflow.get_run(result.run_id).info.status == "FINISHED"
    version = champion_of(MlflowClient(), "cartas-ptt5")
    assert version.run_id == result.run_id
    assert "11. Registrando o modelo e comparando com o campeão..." in said
    assert "Para servir: mlflow models serve -m models:/cartas-ptt5@champion --env-manager local" in said


@pytest.mark.slow
def test_mlflow_run_promotes_and_generates(trainings: Trainings, settings: dict[str, Any], tmp_path: Path) -> None:
    def mlflow_run(entry: str, **values: str) -> None:
        words = [word for name, value in values.items() for word in ("-P", f"{name}={value}")]
        subprocess.run(
            ["mlflow", "run", str(PROJECT_ROOT), "--env-manager", "local", "-e", entry, *words],
            cwd=tmp_path,
            env=environment_elsewhere(MLFLOW_TRACKING_URI=trainings.uri, PYTHONPATH=str(PROJECT_ROOT)),
            check=True,
            capture_output=True,
            timeout=300,
        )

    name, output = settings["registry.name"], tmp_path / "uma leitura.csv"
    named = {"registry.name": name, "tracking.experiment": EXPERIMENT}
    mlflow_run("promote", force="true", **named)
    assert champion(settings) == "1"
    prompt = {"carta": "O Louco", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
    mlflow_run("generate", **prompt, output=str(output), **{"registry.name": name})
    with output.open(encoding="utf-8-sig", newline="") as stream:
        (row,) = csv.DictReader(stream, delimiter=";")
    assert row.pop("texto")
    assert row == prompt
    runs = MlflowClient().search_runs(["0"], "attributes.status = 'FINISHED'")
    assert {run.info.run_name for run in runs} >= {
        f"promoção de {name} 1",
        f"leituras de models:/{name}@champion",
    }


@pytest.mark.slow
def test_it_works_against_a_server_too(
    tracking_server: str, finished_trainings: Trainings, settings: dict[str, Any], tmp_path: Path
) -> None:
    with in_store(finished_trainings.uri, tmp_path):
        table = read_csv(finished_trainings.runs["good"], "samples/final.csv")
    split = [{"id": row["id"], "reading": reading_id(row["real"]), "side": "validation"} for row in table]
    with in_store(tracking_server, tmp_path):
        runs = [another_run(finished_trainings, table, split) for _ in range(2)]
        assert promote_run(overrides=settings, run_id=runs[0]).decision.promoted
        second = promote_run(overrides=settings, run_id=runs[1])
        assert (second.version, second.decision.promoted) == ("2", False)
        assert second.decision.comparison.records == 42
        assert promote_run(overrides=settings, run_id=runs[1], force=True).decision.promoted
        assert give_back(settings["registry.name"]) == ("2", "1")
