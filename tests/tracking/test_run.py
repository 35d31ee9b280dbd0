"""A run from its opening to its end, on a real store: alone, inside ``mlflow run``, failed, interrupted, resumed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import RunInterrupted, TrackingError, TrainingError
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.opening import open_run

QUIET = TrackingSettings(system_metrics=False)


def typed(**overrides: str) -> TrackingSettings:
    """Tracking settings as the user typed them."""
    return load_config(overrides={f"tracking.{name}": value for name, value in overrides.items()}).tracking.model_copy(
        update={"system_metrics": False}
    )


@pytest.fixture
def client(tracking_store: str) -> MlflowClient:
    return MlflowClient(tracking_store)


@pytest.fixture
def project_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run as ``mlflow run`` leaves it to its child: ``-P`` values logged shell-quoted, its id in the environment."""
    run = client.create_run(client.create_experiment("da-linha-de-comando"))
    for key, value in {"epochs": "1", "training.learning_rate": "5e-5", "data.template": "'{carta} é {tema}'"}.items():
        client.log_param(run.info.run_id, key, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return run


def only_run(client: MlflowClient, experiment: str = "cartas-ptt5") -> Run:
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def test_a_run_opens_in_its_experiment_and_ends_finished(client: MlflowClient) -> None:
    with open_run(QUIET) as run:
        assert client.get_run(run.id).info.status == "RUNNING"
        assert client.get_run(run.id).data.tags["outcome"] == "running"
        assert (run.experiment, run.inside_project) == ("cartas-ptt5", False)
    assert only_run(client).info.status == "FINISHED"


def test_parameters_are_logged_as_a_person_would_type_them(client: MlflowClient) -> None:
    with open_run(QUIET) as run:
        run.log_params({"a.sim": True, "a.lista": ["q", "v"], "a.nada": None, "a.taxa": 5e-5, "a.texto": "é, não"})
    assert only_run(client).data.params == {
        "a.sim": "true",
        "a.lista": "q,v",
        "a.nada": "none",
        "a.taxa": "5e-05",
        "a.texto": "é, não",
    }


def test_what_mlflow_run_logged_stays_as_it_was_typed_and_the_rest_of_the_batch_is_logged(
    client: MlflowClient, project_run: Run
) -> None:
    with open_run(QUIET) as run:
        assert run.inside_project
        run.log_params({"training.learning_rate": 5e-5, "data.template": "{carta} é {tema}", "lora.r": 16})
    assert client.get_run(project_run.info.run_id).data.params == {
        "epochs": "1",
        "training.learning_rate": "5e-5",
        "data.template": "'{carta} é {tema}'",
        "lora.r": "16",
    }


def test_inside_mlflow_run_its_own_run_and_experiment_are_used(client: MlflowClient, project_run: Run) -> None:
    with open_run(QUIET) as run:
        assert (run.id, run.experiment) == (project_run.info.run_id, "da-linha-de-comando")
    assert only_run(client, "da-linha-de-comando").info.status == "FINISHED"
    assert client.get_experiment_by_name("cartas-ptt5") is None


def test_an_experiment_that_mlflow_run_overrules_is_one_sentence(client: MlflowClient, project_run: Run) -> None:
    with pytest.raises(TrackingError) as error, open_run(typed(experiment="outro")):
        pytest.fail("the run must not start")
    assert str(error.value) == (
        "tracking.experiment=outro não vale dentro de mlflow run, que já abriu a execução no experimento "
        "da-linha-de-comando; use mlflow run --experiment-name outro."
    )
    failed = client.get_run(project_run.info.run_id)
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", str(error.value))


def test_the_same_experiment_typed_twice_is_no_contradiction(client: MlflowClient, project_run: Run) -> None:
    with open_run(typed(experiment="da-linha-de-comando")) as run:
        assert run.id == project_run.info.run_id


def test_a_run_gets_a_name_that_tells_what_it_is(client: MlflowClient) -> None:
    with open_run(QUIET) as run:
        run.name("mini · LoRA r16")
    assert only_run(client).info.run_name == "mini · LoRA r16"


@pytest.mark.parametrize("given", ["minha", "treino-base-1"])
def test_a_name_that_the_user_gave_stays(client: MlflowClient, given: str) -> None:
    with open_run(typed(run_name=given)) as run:
        run.name("mini · LoRA r16")
    assert only_run(client).info.run_name == given


def test_a_name_given_to_mlflow_run_stays_and_a_generated_one_does_not(
    client: MlflowClient, project_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = client.create_run(project_run.info.experiment_id, run_name="treino-base-1")
    for run_id, name in ((project_run.info.run_id, "mini"), (named.info.run_id, "treino-base-1")):
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with open_run(QUIET) as run:
            run.name("mini")
        assert client.get_run(run_id).info.run_name == name


def test_inside_mlflow_run_a_typed_name_counts(client: MlflowClient, project_run: Run) -> None:
    with open_run(typed(run_name="minha")) as run:
        run.name("mini")
    assert client.get_run(project_run.info.run_id).info.run_name == "minha"


def test_an_error_of_the_user_ends_the_run_failed_with_its_sentence(client: MlflowClient) -> None:
    with pytest.raises(TrainingError), open_run(QUIET):
        raise TrainingError("A perda deixou de ser um número no passo 3; use float32.")
    run = only_run(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["outcome"] == "failed"
    assert run.data.tags["failure"] == "A perda deixou de ser um número no passo 3; use float32."
    assert run.data.tags["mlflow.note.content"] == (
        "**Falhou:** A perda deixou de ser um número no passo 3; use float32."
    )


def test_a_bug_ends_the_run_failed_with_its_kind_and_first_line_and_no_password(client: MlflowClient) -> None:
    with pytest.raises(ValueError, match="first"), open_run(QUIET):
        raise ValueError("first postgresql://ana:segredo@banco/x\nsecond")
    assert only_run(client).data.tags["failure"] == "ValueError: first postgresql://banco/x"


def test_an_error_without_text_still_has_its_kind(client: MlflowClient) -> None:
    with pytest.raises(AssertionError), open_run(QUIET):
        raise AssertionError
    assert only_run(client).data.tags["failure"] == "AssertionError: "


def test_an_interrupted_run_ends_killed_and_tells_how_to_go_on(client: MlflowClient) -> None:
    with pytest.raises(RunInterrupted) as interruption, open_run(QUIET):
        raise RunInterrupted("Para continuar: `python …`")
    run = only_run(client)
    assert (run.info.status, run.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert run.data.tags["mlflow.note.content"] == "**Interrompida.** Para continuar: `python …`"
    assert "failure" not in run.data.tags
    assert interruption.value.exit_code == 130


def test_ctrl_c_before_the_training_ends_the_run_killed(client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(QUIET):
        raise KeyboardInterrupt
    run = only_run(client)
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("KILLED", "**Interrompida.**")


@pytest.mark.parametrize("error", [None, TrainingError("não"), KeyboardInterrupt()])
def test_the_log_is_logged_however_the_run_ends(
    client: MlflowClient, tmp_path: Path, error: BaseException | None
) -> None:
    log = tmp_path / "training_log.log"
    try:
        with open_run(QUIET, log_file=log) as run:
            log.write_text("início\n", encoding="utf-8")
            if error is not None:
                raise error
    except (TrainingError, KeyboardInterrupt):
        pass
    copy = Path(client.download_artifacts(run.id, "report/training_log.log"))
    assert copy.read_text(encoding="utf-8") == "início\n"


def test_a_failed_run_goes_on_as_the_same_run_and_loses_the_mark_of_failure(client: MlflowClient) -> None:
    with pytest.raises(TrainingError), open_run(QUIET) as run:
        raise TrainingError("não")
    with open_run(QUIET, resume_run_id=run.id) as again:
        assert again.id == run.id
        assert client.get_run(run.id).info.status == "RUNNING"
    resumed = only_run(client)
    assert (resumed.info.status, resumed.data.tags["outcome"]) == ("FINISHED", "running")
    assert "failure" not in resumed.data.tags


def test_a_training_resumed_by_mlflow_run_says_from_which_run(client: MlflowClient, project_run: Run) -> None:
    earlier = client.create_run(project_run.info.experiment_id)
    # The resolved settings of the earlier training name an experiment: nobody typed it.
    with open_run(typed(experiment="outro"), resume_run_id=earlier.info.run_id) as run:
        assert run.id == project_run.info.run_id
    assert client.get_run(run.id).data.tags["resumed_from"] == earlier.info.run_id


def test_an_experiment_that_was_deleted_is_one_sentence(client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("cartas-ptt5"))
    with pytest.raises(TrackingError) as error, open_run(QUIET):
        pytest.fail("the run must not start")
    assert str(error.value).startswith("O MLflow em sqlite:///")
    assert "apagados (Cannot set a deleted experiment 'cartas-ptt5'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_of_mlflow_run_that_is_in_another_store_is_one_sentence(
    tracking_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with (
        pytest.raises(TrackingError, match="dentro de mlflow run, um sqlite precisa do caminho absoluto"),
        open_run(QUIET),
    ):
        pytest.fail("the run must not start")


def test_tables_are_inputs_with_digest_context_and_source(client: MlflowClient) -> None:
    rows = {"carta": ["O Sol", "A Lua"], "texto": ["luz", "sombra"]}
    with open_run(QUIET) as run:
        datasets = run.log_datasets(
            {"training": rows, "validation": {key: values[:1] for key, values in rows.items()}},
            "data/cartas.csv",
            "texto",
        )
    inputs = {item.tags[0].value: item.dataset for item in only_run(client).inputs.dataset_inputs}
    assert inputs.keys() == {"training", "validation"} == datasets.keys()
    assert {dataset.name for dataset in inputs.values()} == {"cartas"}
    assert inputs["training"].digest == datasets["training"].digest != inputs["validation"].digest
    assert json.loads(inputs["training"].source) == {"uri": "data/cartas.csv"}
    assert inputs["training"].source_type == "local"
    assert json.loads(inputs["training"].profile)["num_rows"] == 2
    assert [column["name"] for column in json.loads(inputs["training"].schema)["mlflow_colspec"]] == ["carta", "texto"]


def test_the_same_table_has_the_same_digest(client: MlflowClient) -> None:
    rows = {"carta": ["O Sol"], "texto": ["luz"]}
    with open_run(QUIET) as run:
        digests = {run.log_datasets({"training": rows}, "a.csv", "texto")["training"].digest for _ in range(2)}
    assert len(digests) == 1


def test_tables_keep_their_accents(client: MlflowClient) -> None:
    columns = {"carta": ["A Imperatriz"], "gerado": ['Pão, café e "paciência"\nno coração']}
    with open_run(QUIET) as run:
        run.log_csv(columns, "samples/base.csv")
        run.log_table(columns, "samples/final.json")
    text = Path(client.download_artifacts(run.id, "samples/base.csv")).read_text(encoding="utf-8")
    assert list(csv.DictReader(io.StringIO(text, newline=""))) == [{key: values[0] for key, values in columns.items()}]
    assert "coração" in text
    table = json.loads(Path(client.download_artifacts(run.id, "samples/final.json")).read_text(encoding="utf-8"))
    assert (table["columns"], table["data"]) == (list(columns), [[values[0] for values in columns.values()]])
    assert json.loads(only_run(client).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "samples/final.json", "type": "table"}
    ]


def test_a_file_and_a_folder_are_logged_under_their_folder(client: MlflowClient, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with open_run(QUIET) as run:
        run.log_file(folder, "adapter")
        run.log_file(folder / "adapter_config.json", "report")
    assert [item.path for item in client.list_artifacts(run.id, "adapter")] == ["adapter/adapter_config.json"]
    assert [item.path for item in client.list_artifacts(run.id, "report")] == ["report/adapter_config.json"]


@pytest.mark.slow
def test_system_metrics_are_logged_at_the_interval_that_was_set(client: MlflowClient) -> None:
    import time

    settings = TrackingSettings(system_metrics_interval=0.5)
    with open_run(settings):
        time.sleep(2)
    assert only_run(client).data.metrics["system/cpu_utilization_percentage"] >= 0
