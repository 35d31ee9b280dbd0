"""How a training goes on: the command that is told, and the folder or the run that is meant."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from finished import Trained, train_here
from mlflow import MlflowClient
from trainings import in_store

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.errors import RunInterrupted, SettingError, TrackingError, TrainingError
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking import kept_checkpoint
from cartas_mlflow.tracking.journal import Journal, Reader
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.run import OUTCOME_TAG
from cartas_mlflow.training.resumption import find_training, going_on_told, say_abandoned, say_interrupted
from cartas_mlflow.training.session import begin

SERIES = ("train/loss", "train/learning_rate", "train/grad_norm", "train/epoch_loss", "eval/loss", "eval/chrf")


@pytest.fixture
def earlier(trained: Trained, tmp_path: Path) -> Path:
    """The folder of a training with checkpoints, as a copy that a test may change."""
    return Path(shutil.copytree(trained.folder, tmp_path / "20260711_143022"))


def in_folder(folder: Path) -> TrackingSettings:
    return TrackingSettings(output_dir=str(folder), offline=True)


def test_an_interruption_tells_how_to_go_on(said: list[str]) -> None:
    note = say_interrupted(Path("/tmp/t/checkpoints/checkpoint-6"))
    assert said == [
        "✅ Checkpoint de emergência salvo em: /tmp/t/checkpoints/checkpoint-6",
        "Para continuar: python -m cartas_mlflow train --resume /tmp/t/checkpoints/checkpoint-6",
    ]
    assert note == "Para continuar: `python -m cartas_mlflow train --resume /tmp/t/checkpoints/checkpoint-6`"


def test_the_command_to_go_on_can_be_pasted_into_a_shell(said: list[str]) -> None:
    say_interrupted(Path("/tmp/minha pasta/checkpoints/checkpoint-6"))
    assert said[-1].endswith(" train --resume '/tmp/minha pasta/checkpoints/checkpoint-6'")


def test_the_last_interrupted_training_and_a_runs_id_are_found(earlier: Path, tmp_path: Path) -> None:
    interrupted = Path(shutil.copytree(earlier, tmp_path / "20260712_080000"))
    entries = interrupted / "journal" / "entries.jsonl"
    entries.write_bytes(b"".join(entries.read_bytes().splitlines(keepends=True)[:-1]))  # all but its end
    run_id = json.loads((earlier / "run.json").read_text(encoding="utf-8"))["run_id"]
    assert find_training("last", in_folder(tmp_path)) == str(interrupted)
    assert find_training(run_id, in_folder(tmp_path)) in {str(earlier), str(interrupted)}
    assert find_training(str(earlier), in_folder(tmp_path)) == str(earlier)
    session = begin(DEFAULT_CONFIG, {"tracking.output_dir": str(tmp_path), "resume": "last"})
    assert session.folder == interrupted
    assert session.checkpoint.name == "checkpoint-15"


def test_inside_mlflow_run_the_last_interrupted_training_is_that_of_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path):
        client = MlflowClient()
        place = client.create_experiment("da casa", artifact_location=(tmp_path / "artifacts").as_uri())
        interrupted, own = (client.create_run(place).info.run_id for _ in range(2))
        client.set_tag(interrupted, OUTCOME_TAG, "interrupted")
        for name in ("config/config_resolved.yaml", "data/split.csv", "checkpoint/checkpoint-3/trainer_state.json"):
            client.log_text(interrupted, "{}", name)
        client.set_terminated(interrupted, "KILLED")
        nowhere = TrackingSettings(output_dir=str(tmp_path / "results"))
        with pytest.raises(TrainingError, match="Não há treinamento interrompido em "):
            find_training("last", nowhere)
        monkeypatch.setenv("MLFLOW_RUN_ID", own)
        folder = Path(find_training("last", nowhere))
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["run_id"] == interrupted
    assert (folder / "checkpoints" / "checkpoint-3" / "trainer_state.json").exists()


@pytest.mark.parametrize(
    ("resume", "sentence"),
    [("last", "Não há treinamento interrompido em "), ("0" * 32, "Nenhuma pasta em ")],
)
def test_where_there_is_nothing_to_go_on_from_it_is_one_sentence(resume: str, sentence: str, earlier: Path) -> None:
    with pytest.raises(TrainingError, match=sentence):
        find_training(resume, in_folder(earlier.parent))


def test_an_interruption_before_the_first_step_says_that_there_is_nothing_to_go_on_from(said: list[str]) -> None:
    assert say_interrupted(None) == "Nenhum checkpoint foi salvo: a interrupção veio antes do primeiro passo."
    assert said == ["⚠️ Nenhum checkpoint foi salvo: a interrupção veio antes do primeiro passo."]


def test_an_interruption_where_no_step_is_on_tells_how_to_go_on_too(earlier: Path, said: list[str]) -> None:
    with pytest.raises(RunInterrupted) as interruption, going_on_told(earlier):
        raise KeyboardInterrupt
    command = f"python -m cartas_mlflow train --resume {earlier}/checkpoints/checkpoint-15"
    assert said[-1] == f"Para continuar: {command}"
    assert str(interruption.value) == f"Para continuar: `{command}`"


def test_a_training_whose_process_died_is_found_named_and_ended(
    tracking_store: str, earlier: Path, said: list[str]
) -> None:
    client, quiet = MlflowClient(), TrackingSettings(output_dir=str(earlier.parent), system_metrics=False)
    shutil.rmtree(earlier / "journal")
    with open_run(quiet, folder=earlier) as run:
        run.log_metrics({"train/loss": 2.0}, 5)
    entries = earlier / "journal" / "entries.jsonl"
    *alive, end = entries.read_bytes().splitlines(keepends=True)
    assert b'"end"' in end
    entries.write_bytes(b"".join(alive))  # as a SIGKILL leaves it
    state = earlier / "journal" / "delivered.json"
    told = json.loads(state.read_text(encoding="utf-8"))
    told["runs"][0]["count"] -= 1
    state.write_text(json.dumps(told), encoding="utf-8")
    client.update_run(run.id, "RUNNING")

    config = load_config(DEFAULT_CONFIG, {"tracking.output_dir": str(earlier.parent)})
    for _ in range(2):
        say_abandoned(config, Path("/outra"))
    assert said == [
        f"⚠️ Um treino anterior parou sem aviso depois do passo 15 de 15, época 3 de 3 ({earlier}); a sua execução está "
        "marcada como interrompida.",
        f"   Para continuar: python -m cartas_mlflow train --resume {earlier}/checkpoints/checkpoint-15",
    ]
    dead = client.get_run(run.id)
    assert (dead.info.status, dead.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert dead.data.tags["mlflow.note.content"].startswith("**Interrompida.** Para continuar: `python -m ")
    assert dead.info.end_time == Journal(earlier / "journal").points["train/loss", 5].timestamp


def test_one_that_is_at_work_is_left_alone(tracking_store: str, earlier: Path, said: list[str]) -> None:
    quiet = TrackingSettings(output_dir=str(earlier.parent), system_metrics=False)
    shutil.rmtree(earlier / "journal")
    with open_run(quiet, folder=earlier):
        say_abandoned(load_config(DEFAULT_CONFIG, {"tracking.output_dir": str(earlier.parent)}), Path("/outra"))
    assert said == []


def _only_run(client: MlflowClient) -> str:
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run.info.run_id


@pytest.mark.slow
def test_a_refused_resumption_leaves_the_run_as_it_was_and_another_goes_on_without_the_folder(
    trained: Trained,
    quick: dict[str, Any],
    empty_store: str,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cartas_mlflow.training import fitting

    real, epochs = fitting.MlflowLogging.on_evaluate, []

    def interrupt(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        epochs.append(1)
        if len(epochs) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.MlflowLogging, "on_evaluate", interrupt)
        with pytest.raises(RunInterrupted):
            train_here(quick)
    client = MlflowClient()
    run_id = _only_run(client)
    before = client.get_run(run_id)
    assert before.info.status == "KILLED"
    kept = ["checkpoint/checkpoint-10", "checkpoint/checkpoint-11"]  # the best epoch's, and the newest
    assert sorted(item.path for item in client.list_artifacts(run_id, "checkpoint")) == kept
    for others in ({"lora__r": 7}, {"training__seed": 7}):
        with pytest.raises(SettingError, match="difere do treinamento interrompido"):
            train_here(quick, training__resume="last", **others)
        now = client.get_run(run_id)
        assert (now.info.status, now.data.tags, now.data.params) == ("KILLED", before.data.tags, before.data.params)

    shutil.rmtree(tmp_path / "results")
    client.update_run(run_id, "RUNNING")  # as on a machine whose process is alive, or died this minute
    with pytest.raises(TrackingError, match=f"A execução {run_id} ainda está trabalhando"):
        train_here(quick, training__resume=run_id)
    assert list((tmp_path / "results").iterdir()) == []
    monkeypatch.setattr(kept_checkpoint, "SIGN_OF_LIFE", 0)

    again = train_here(quick, training__resume="last")
    assert any(f"buscando no MLflow o checkpoint da execução {run_id}" in line for line in said)
    assert (again.result.run_id, again.run.info.status) == (run_id, "FINISHED")
    for name in SERIES:
        assert again.series(name) == trained.series(name), name
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert len(set(steps)) == len(steps), name
    assert again.result.metrics == trained.result.metrics
    assert client.list_artifacts(run_id, "checkpoint") == []


@pytest.mark.parametrize(
    ("error", "status"), [(RunInterrupted("Para continuar: `python …`"), "KILLED"), (None, "FINISHED")]
)
def test_a_training_whose_process_died_while_its_end_was_told_is_told_to_the_end_at_the_next_start(
    tracking_store: str, tmp_path: Path, said: list[str], error: RunInterrupted | None, status: str
) -> None:
    quiet = TrackingSettings(output_dir=str(tmp_path / "results"), system_metrics=False)
    folder, client = tmp_path / "results" / "um", MlflowClient()
    with suppress(RunInterrupted), open_run(quiet, folder=folder) as run:
        run.log_metrics({"final/chrf": 0.2}, 3)
        if error is not None:
            raise error
    _forget_telling(folder, entries=2)
    client.update_run(run.id, "RUNNING")
    config = load_config(DEFAULT_CONFIG, {"tracking.output_dir": quiet.output_dir})
    for _ in range(2):
        say_abandoned(config, Path("/outra"))
    assert client.get_run(run.id).info.status == status
    assert said == [f"✅ O fim do treino anterior em {folder} não tinha chegado todo ao MLflow; agora chegou."]


@pytest.mark.slow
def test_a_model_that_was_not_logged_when_the_process_died_is_logged_at_the_next_start(
    quick: dict[str, Any], empty_store: str, tmp_path: Path, said: list[str]
) -> None:
    client, finished = MlflowClient(), train_here(quick)
    run_id, folder = finished.result.run_id, finished.folder
    (model,) = client.get_run(run_id).outputs.model_outputs
    metrics = client.get_run(run_id).data.metrics
    client.delete_logged_model(model.model_id)
    entries = list(Reader(folder / "journal" / "entries.jsonl").news())
    model_at = next(entry.number for entry in entries if entry.kind == "model")
    _forget_telling(folder, entries=len(entries) - model_at)
    client.update_run(run_id, "RUNNING")
    say_abandoned(load_config(DEFAULT_CONFIG, {"tracking.output_dir": str(folder.parent)}), Path("/outra"))
    again = client.get_run(run_id)
    assert (again.info.status, again.data.metrics) == ("FINISHED", metrics)
    assert any(other.model_id != model.model_id for other in again.outputs.model_outputs)
    assert said[-1] == f"✅ O fim do treino anterior em {folder} não tinha chegado todo ao MLflow; agora chegou."


def _forget_telling(folder: Path, *, entries: int) -> None:
    """As if the process had died before it told the last entries of a folder's journal."""
    state = folder / "journal" / "delivered.json"
    told = json.loads(state.read_text(encoding="utf-8"))
    told["runs"][0]["count"] -= entries
    state.write_text(json.dumps(told), encoding="utf-8")
