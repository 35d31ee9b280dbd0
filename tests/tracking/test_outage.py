"""A server that goes away while a run speaks: nobody waits for it, nothing is lost, and nothing stands twice."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import Server, slowed
from trainings import free_port, in_store

from cartas_mlflow.errors import TrackingError, Undelivered
from cartas_mlflow.files import DamagedFile
from cartas_mlflow.pipelines.sync import sync
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking import courier, store
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.run import TrackedRun

QUIET = TrackingSettings(system_metrics=False, wait=60)
POINTS = 40


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory, created_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("servidor")
    shutil.copy(created_store, folder / "mlflow.db")
    server = Server(folder, free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(one_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, up, in use, in an empty working folder; clients are in a hurry."""
    if one_server.process is None:
        one_server.start()
    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(courier, "GATHERING_SECONDS", 0.1)
    monkeypatch.setattr(courier, "FIRST_PATIENCE", 1)
    with in_store(one_server.address, tmp_path):
        yield one_server


def speak(run: TrackedRun, first: int, last: int) -> None:
    """A piece of a training, whose every step takes 10 ms; and nothing waits longer than that."""
    for step in range(first, last):
        began = time.perf_counter()
        run.log_metrics({"loss": 1 / (step + 1)}, step)
        if step % 10 == 0:
            run.log_text(f"leitura {step}, coração", f"samples/{step:03d}.txt")
            run.log_params({f"p{step}": step})
        assert time.perf_counter() - began < 0.5
        time.sleep(0.01)


def assert_whole(client: MlflowClient, run_id: str, points: int = POINTS) -> Run:
    history = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(points)]
    texts = [item.path for item in client.list_artifacts(run_id, "samples")]
    assert texts == [f"samples/{step:03d}.txt" for step in range(0, points, 10)]
    run = client.get_run(run_id)
    assert run.data.params == {f"p{step}": str(step) for step in range(0, points, 10)}
    return run


def told(said: list[str]) -> tuple[int, int]:
    """How often an outage and a return were told."""
    return sum("não recebe (" in line for line in said), sum(" voltou; " in line for line in said)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_gets_everything(server: Server, tmp_path: Path, said: list[str]) -> None:
    with open_run(QUIET, folder=tmp_path / "treino") as run:
        speak(run, 0, 15)
        server.kill()
        speak(run, 15, POINTS)
        time.sleep(0.5)
        server.start()
    assert assert_whole(MlflowClient(), run.id).info.status == "FINISHED"
    assert told(said) == (1, 1)
    assert "(ConnectionError)" in next(line for line in said if "não recebe (" in line)


@pytest.mark.slow
def test_a_server_that_stops_answering_gets_everything_when_it_answers_again(
    server: Server, tmp_path: Path, said: list[str]
) -> None:
    with open_run(QUIET, folder=tmp_path / "treino") as run:
        speak(run, 0, 15)
        server.signal(signal.SIGSTOP)
        speak(run, 15, 30)
        time.sleep(3)
        Timer(2, server.signal, [signal.SIGCONT]).start()
        speak(run, 30, POINTS)
    assert assert_whole(MlflowClient(), run.id).info.status == "FINISHED"
    assert told(said) == (1, 1)


@pytest.mark.slow
def test_a_slow_server_slows_nobody_down(server: Server, tmp_path: Path, said: list[str]) -> None:
    with slowed(server.address, 0.2) as address, in_store(address, tmp_path):
        with open_run(QUIET, folder=tmp_path / "treino") as run:
            speak(run, 0, POINTS)
        assert assert_whole(MlflowClient(), run.id).info.status == "FINISHED"
    assert told(said) == (0, 0)


@pytest.mark.slow
def test_a_server_that_is_dead_for_good_is_told_later_in_the_same_run_and_another_store_in_a_new_one(
    server: Server, tmp_path: Path, created_store: Path, said: list[str]
) -> None:
    folder = tmp_path / "results" / "um treino"
    with (
        pytest.raises(Undelivered) as left,
        open_run(QUIET.model_copy(update={"wait": 0.5}), folder=folder, log_file=folder / "diário.log") as run,
    ):
        (folder / "diário.log").write_text("linha\n", encoding="utf-8")
        speak(run, 0, 15)
        server.kill()
        speak(run, 15, POINTS)
    assert str(left.value).endswith(f"Para entregar: python -m cartas_mlflow sync '{folder}'")

    with pytest.raises(TrackingError, match="não responde"):
        sync()
    server.start()
    assert sync() == [run.id]
    first = assert_whole(MlflowClient(), run.id)
    assert (first.info.status, first.data.tags["outcome"]) == ("FINISHED", "running")
    assert first.info.end_time - first.info.start_time < 60_000
    assert sync() == []
    assert said[-1] == "✅ Nada a entregar: o MLflow já recebeu tudo."

    shutil.copy(created_store, tmp_path / "outro.db")
    with in_store(f"sqlite:///{tmp_path / 'outro.db'}", tmp_path):
        (other,) = sync(folder=str(folder))
        assert other != run.id
        second = assert_whole(MlflowClient(), other)
        assert second.info.status == "FINISHED"
        assert second.info.start_time == pytest.approx(first.info.start_time, abs=3000)
        assert sync(folder=str(folder)) == [other]
        assert_whole(MlflowClient(), other)


@pytest.mark.slow
def test_a_trial_begins_while_the_server_is_away(server: Server, tmp_path: Path) -> None:
    client = MlflowClient()
    place = client.create_experiment("busca")
    parent = client.create_run(place).info.run_id
    server.kill()
    with open_run(QUIET, folder=tmp_path / "tentativa", parent_run_id=parent) as run:
        speak(run, 0, POINTS)
        server.start()
    (trial,) = client.search_runs([place], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert assert_whole(client, trial.info.run_id).info.status == "FINISHED"


def test_an_interruption_ends_the_wait(tracking_store: str, tmp_path: Path, said: list[str]) -> None:
    with (
        pytest.raises(Undelivered),
        open_run(QUIET, folder=tmp_path / "treino") as run,
    ):
        run.log_metrics({"x": 1.0})
        blocker = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        Timer(1, signal.raise_signal, [signal.SIGINT]).start()
        run.log_metrics({"y": 1.0})
    blocker.execute("ROLLBACK")
    blocker.close()
    assert sync(folder=str(tmp_path / "treino")) == [run.id]
    assert MlflowClient().get_run(run.id).data.metrics == {"x": 1.0, "y": 1.0}


def test_a_locked_sqlite_makes_nobody_wait(tracking_store: str, tmp_path: Path) -> None:
    with open_run(QUIET, folder=tmp_path / "treino") as run:
        blocker = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
        blocker.execute("BEGIN EXCLUSIVE")
        speak(run, 0, POINTS)
        Timer(1, blocker.execute, ["ROLLBACK"]).start()
    assert_whole(MlflowClient(), run.id)


def test_a_locked_sqlite_is_one_sentence_at_the_start(
    tracking_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SERVER_PATIENCE", 0.2)
    blocker = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrackingError, match="outro programa o mantém ocupado"), open_run(QUIET):
        pytest.fail("the run must not start")


def test_what_was_told_and_not_remembered_stands_once(tracking_store: str, tmp_path: Path) -> None:
    folder = tmp_path / "treino"
    with open_run(QUIET, folder=folder) as run:
        speak(run, 0, POINTS)
        run.log_table({"a": ["é"]}, "tabela.json")
        run.log_datasets({"training": {"texto": ["é"]}}, "a.csv", "texto")
    state = folder / "journal" / "delivered.json"
    told = json.loads(state.read_text(encoding="utf-8"))
    for count in (0, 3, 20):
        told["runs"][0]["count"] = count
        state.write_text(json.dumps(told), encoding="utf-8")
        assert sync(folder=str(folder)) == [run.id]
    whole = assert_whole(MlflowClient(), run.id)
    assert len(whole.inputs.dataset_inputs) == 1
    assert len(json.loads(whole.data.tags["mlflow.loggedArtifacts"])) == 1
    assert whole.info.status == "FINISHED"


def test_a_run_that_was_made_and_not_remembered_is_found(tracking_store: str, tmp_path: Path) -> None:
    folder = tmp_path / "treino"
    with open_run(QUIET, folder=folder) as run:
        speak(run, 0, POINTS)
    (folder / "journal" / "delivered.json").unlink()
    assert sync(folder=str(folder)) == [run.id]
    assert_whole(MlflowClient(), run.id)


def test_a_run_whose_process_died_is_delivered_as_interrupted_and_goes_on(tracking_store: str, tmp_path: Path) -> None:
    folder = tmp_path / "treino"
    offline = QUIET.model_copy(update={"offline": True})
    with open_run(offline, folder=folder) as run:
        speak(run, 0, 15)
    entries = folder / "journal" / "entries.jsonl"
    whole = entries.read_bytes().splitlines(keepends=True)
    entries.write_bytes(b"".join(whole[:-1]) + whole[-1][:20])  # the process died in the midst of its last words
    (run_id,) = sync(folder=str(folder))
    dead = MlflowClient().get_run(run_id)
    assert (dead.info.status, dead.data.tags["outcome"]) == ("KILLED", "interrupted")
    with open_run(QUIET, folder=folder, resume_run_id=run.id) as again:
        assert again.id == run_id
        speak(again, 10, POINTS)  # from the last checkpoint on
    assert assert_whole(MlflowClient(), run_id).info.status == "FINISHED"


def test_a_damaged_journal_is_one_sentence(tracking_store: str, tmp_path: Path) -> None:
    folder = tmp_path / "treino"
    with open_run(QUIET, folder=folder) as run:
        speak(run, 0, 15)
    entries = folder / "journal" / "entries.jsonl"
    entries.write_bytes(entries.read_bytes().replace(b'"loss", 0.5', b'"loss", 0.6'))
    with pytest.raises(DamagedFile, match=r"entries.jsonl está danificado \(a linha 5"):
        sync(folder=str(folder))


def test_two_processes_do_not_write_one_journal(tracking_store: str, tmp_path: Path) -> None:
    folder = tmp_path / "treino"
    with open_run(QUIET, folder=folder) as run:
        with pytest.raises(TrackingError, match="Outro processo está trabalhando em"):
            sync(folder=str(folder))
        with (
            pytest.raises(TrackingError, match="Outro processo está trabalhando em"),
            open_run(QUIET, folder=folder, resume_run_id=run.id),
        ):
            pytest.fail("the run must not start")


def test_an_artifact_that_is_refused_holds_up_nothing(
    tracking_store: str, tmp_path: Path, created_store: Path, said: list[str]
) -> None:
    client, folder = MlflowClient(), tmp_path / "treino"
    client.create_experiment("cartas-ptt5", artifact_location="/dev/null/x")
    with pytest.raises(Undelivered, match="há um arquivo no lugar de uma pasta"), open_run(QUIET, folder=folder) as run:
        run.log_text("a", "a.txt")
        run.log_metrics({"x": 1.0})
    found = client.get_run(run.id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"x": 1.0})
    assert sum("O trabalho continua, e o arquivo fica guardado" in line for line in said) == 1
    shutil.copy(created_store, tmp_path / "outro.db")
    with in_store(f"sqlite:///{tmp_path / 'outro.db'}", tmp_path):
        (other,) = sync(folder=str(folder))
        assert [item.path for item in MlflowClient().list_artifacts(other)] == ["a.txt"]
