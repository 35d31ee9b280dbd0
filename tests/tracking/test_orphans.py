"""Runs whose process died where no journal could end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.journal import Journal
from cartas_mlflow.tracking.opening import open_run

QUIET = TrackingSettings(system_metrics=False)
PROJECT = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main"}


def made_by_mlflow_run(client: MlflowClient, **tags: str) -> str:
    """The id of a run as ``mlflow run`` makes it, before the program that it starts says anything."""
    found = client.get_experiment_by_name(QUIET.experiment)
    place = client.create_experiment(QUIET.experiment) if found is None else found.experiment_id
    return client.create_run(place, tags={**PROJECT, **tags}).info.run_id


def test_the_runs_that_a_training_went_on_from_are_ended_when_it_goes_on_in_another(
    tracking_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    first, second, third = (made_by_mlflow_run(client) for _ in range(3))
    entries = tmp_path / "journal" / "entries.jsonl"
    died = {}
    for run_id in (first, second):
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with open_run(QUIET, folder=tmp_path) as run:
            run.log_metrics({"train/loss": 2.0}, 5)
        entries.write_bytes(b"".join(entries.read_bytes().splitlines(keepends=True)[:-1]))  # as a SIGKILL leaves it
        died[run_id] = Journal(tmp_path / "journal").last.time
        client.update_run(run_id, "RUNNING")
    monkeypatch.setenv("MLFLOW_RUN_ID", third)
    with open_run(QUIET, folder=tmp_path, resume_run_id=second):
        assert client.get_run(third).info.status == "RUNNING"
        for run_id in (first, second):
            earlier = client.get_run(run_id)
            assert (earlier.info.status, earlier.data.tags["outcome"]) == ("KILLED", "interrupted")
        assert client.get_run(second).info.end_time == died[second]
        note = client.get_run(second).data.tags["mlflow.note.content"]
        assert note == f"**Interrompida.** O treino continua na execução {third}."


def test_a_run_that_no_program_took_over_is_ended_and_told_once(tracking_store: str, said: list[str]) -> None:
    client = MlflowClient()
    dead = made_by_mlflow_run(client)
    at_work = made_by_mlflow_run(client, **{"journal.id": "abc"})
    for _ in range(2):
        with open_run(QUIET):
            pass
    assert [client.get_run(run_id).info.status for run_id in (dead, at_work)] == ["KILLED", "RUNNING"]
    assert client.get_run(dead).data.tags["mlflow.note.content"] == "**Interrompida** antes de o programa começar."
    assert said == [
        "⚠️ Um mlflow run morreu antes de o programa começar; a sua execução está marcada como interrompida."
    ]


@pytest.mark.parametrize("way", ["handed over", "being launched"])
def test_a_run_that_a_living_process_may_take_over_is_left_alone(
    tracking_store: str, tmp_path: Path, said: list[str], way: str
) -> None:
    client, sleep = MlflowClient(), "import time; time.sleep(60)"
    if way == "handed over":
        run_id = made_by_mlflow_run(client)
        living = subprocess.Popen([sys.executable, "-c", sleep], env={**os.environ, "MLFLOW_RUN_ID": run_id})
    else:
        living = subprocess.Popen([sys.executable, "-c", sleep, "mlflow", "run", "."])
        run_id = made_by_mlflow_run(client)
    try:
        with open_run(QUIET):
            pass
        assert client.get_run(run_id).info.status == "RUNNING"
        assert said == []
    finally:
        living.send_signal(signal.SIGKILL)
        living.wait()
