"""Trainings without a server, with one that dies, and killed ones: what they had to say gets to MLflow, each once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from finished import Trained, train_here
from mlflow import MlflowClient
from servers import slowed
from trainings import environment_elsewhere, free_port, in_store

from cartas_mlflow.cli import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNDELIVERED, EXIT_USER_ERROR, main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.pipelines.sync import sync
from cartas_mlflow.tracking import leftovers
from cartas_mlflow.tracking.journal import Journal, Point
from cartas_mlflow.training import record

pytestmark = pytest.mark.slow

SERIES = (
    "train/loss",
    "train/learning_rate",
    "train/grad_norm",
    "train/epoch_loss",
    "eval/loss",
    "eval/chrf",
    "eval/rougeL",
)


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[None]:
    """MLFLOW_TRACKING_URI names a server that is not there."""
    with in_store(f"http://127.0.0.1:{free_port()}", tmp_path):
        yield


def words(settings: dict[str, Any], **others: Any) -> list[str]:
    """The settings as they are typed."""
    everything = {**settings, **{name.replace("__", "."): value for name, value in others.items()}}
    return [word for name, value in everything.items() for word in (f"--{name}", str(value))]


def assert_told_once(client: MlflowClient, run_id: str, journal: Journal) -> None:
    """Every point of the journal stands in MLflow, once."""
    for name in {name for name, _ in journal.points}:
        history = client.get_metric_history(run_id, name)
        told = sorted(Point(name, point.value, point.timestamp, point.step) for point in history)
        assert told == sorted(point for point in journal.points.values() if point.name == name)


def logged_models(client: MlflowClient, run_id: str) -> list[Any]:
    place = client.get_run(run_id).info.experiment_id
    return client.search_logged_models([place], f"source_run_id = '{run_id}'")


def test_a_server_that_is_away_at_the_start_is_one_sentence_within_seconds(
    nowhere: None, quick: dict[str, Any], said: list[str]
) -> None:
    began = time.monotonic()
    assert main(["train", *words(quick)]) == EXIT_USER_ERROR
    assert time.monotonic() - began < 5
    assert "não responde (ConnectionError)" in said[-1]
    assert "-P tracking.offline=true" in said[-1]


def test_a_training_without_a_server_is_delivered_when_asked(
    nowhere: None,
    quick: dict[str, Any],
    tmp_path: Path,
    empty_store: str,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = train_here(quick, training__epochs=1, tracking__offline=True)
    folder = trained.folder
    assert said[-1].endswith(f"Para entregar: python -m cartas_mlflow sync {folder}")

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after MLflow has linked the model to the run, before it has its files
        patch.setattr(MlflowClient, "log_model_artifacts", die)
        assert main(["sync"]) == EXIT_INTERRUPTED
    assert main(["sync"]) == EXIT_OK
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("cartas-ptt5").experiment_id])
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    assert run.info.run_name.startswith("lr 0.005 · r4 · tiny-t5 · perda ")
    assert run.data.params["training.epochs"] == "1"
    journal = Journal(folder / "journal")
    assert run.info.start_time == journal.first.time
    assert run.info.end_time == journal.last.time
    assert_told_once(client, run.info.run_id, journal)
    for place in ("adapter/adapter_model.safetensors", "report/relatorio.html", "plots/loss.png", "samples/final.json"):
        assert Path(client.download_artifacts(run.info.run_id, place)).stat().st_size
    (model,) = logged_models(client, run.info.run_id)
    assert model.status == "READY"
    assert {metric.key for metric in model.metrics} >= {"final/chrf", "final/rougeL"}

    # As if the process had died just before it took note of what was delivered.
    state = folder / "journal" / "delivered.json"
    told = json.loads(state.read_text(encoding="utf-8"))
    told["runs"][0]["count"] -= 12
    state.write_text(json.dumps(told), encoding="utf-8")
    own = client.create_run("0").info.run_id  # as ``mlflow run -e sync`` opens one
    monkeypatch.setenv("MLFLOW_RUN_ID", own)
    assert main(["sync", str(folder)]) == EXIT_OK
    told_of = client.get_run(own)
    assert (told_of.info.run_name, told_of.data.tags["utility"]) == (f"entrega de {folder}", "sync")
    assert run.info.run_id in told_of.data.tags["mlflow.note.content"]
    assert [again.model_id for again in logged_models(client, run.info.run_id)] == [model.model_id]
    assert_told_once(client, run.info.run_id, journal)
    assert len(client.get_metric_history(run.info.run_id, "final/chrf")) == 1


def test_a_server_that_dies_does_not_stop_the_training_and_gets_it_later(
    tracking_server: str,
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    log_samples, alive = record.log_samples, ExitStack()
    address = alive.enter_context(slowed(tracking_server, 0))

    def dying(run: Any, data: Any, texts: Any, name: str) -> None:
        if name == "epoch-001":
            alive.close()
        log_samples(run, data, texts, name)

    monkeypatch.setattr(record, "log_samples", dying)
    with in_store(address, tmp_path), alive:
        settings = words(quick, training__epochs=2, tracking__wait=0.5, tracking__experiment="morto")
        assert main(["train", *settings]) == EXIT_UNDELIVERED
    (folder,) = leftovers.run_folders(tmp_path / "results")
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert (folder / "relatorio.html").exists()
    assert sum("não recebe (ConnectionError)" in line for line in said) == 1
    assert said[-1].startswith("📦 O MLflow em http://127.0.0.1:")
    assert said[-1].endswith(f"Para entregar: python -m cartas_mlflow sync {folder}")
    with slowed(tracking_server, 0, int(address.rpartition(":")[2])), in_store(address, tmp_path):
        client = MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("morto").experiment_id])
        assert run.info.status == "RUNNING"
        assert sync() == [run.info.run_id]
        run = client.get_run(run.info.run_id)
        assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
        assert_told_once(client, run.info.run_id, Journal(folder / "journal"))
        assert [model.status for model in logged_models(client, run.info.run_id)] == ["READY"]


def test_a_killed_training_goes_on_and_its_series_are_those_of_one_that_was_not(
    trained: Trained, quick: dict[str, Any], empty_store: str, tmp_path: Path
) -> None:
    import torch

    threads = str(torch.get_num_threads())  # another number rounds otherwise
    process = subprocess.Popen(
        [sys.executable, "-m", "cartas_mlflow", "train", *words(quick)],
        cwd=tmp_path,
        env=environment_elsewhere(
            PYTHONPATH=str(PROJECT_ROOT), MLFLOW_TRACKING_URI=empty_store, OMP_NUM_THREADS=threads
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _has_step(tmp_path, 8):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
    again = train_here(quick, training__resume="last")
    assert again.run.info.status == "FINISHED"
    for name in SERIES:
        assert again.series(name) == trained.series(name), name
    assert_told_once(again.client, again.result.run_id, Journal(again.folder / "journal"))
    assert again.result.metrics == trained.result.metrics
    assert len(again.client.search_runs([again.run.info.experiment_id])) == 1


def _has_step(folder: Path, step: int) -> bool:
    return any(
        '["train/loss", ' in (text := file.read_text(encoding="utf-8")) and f", {step}]" in text
        for file in folder.glob("results/*/journal/entries.jsonl")
    )
