"""Two processes over gloo train what one trains: same losses, same texts, one run, one console."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from finished import train_here
from mlflow import MlflowClient
from mlflow.entities import Run
from trainings import environment_elsewhere, in_store

from cartas_mlflow.cli import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR
from cartas_mlflow.config import PROJECT_ROOT, load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.order import FilledOrder, RandomOrder
from cartas_mlflow.training.preparation import cut_batches, load_model, settle_base

SERIES = ("train/loss", "train/grad_norm", "train/learning_rate", "train/epoch_loss", "eval/loss")
BY_HAND = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def settings(quick: dict[str, Any], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training in which nothing is left to chance: 35 readings, so that the last batch is not full."""
    base = Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("sem-acaso") / "base"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}), encoding="utf-8")
    return {**quick, "model.name": str(base), "lora.dropout": 0, "tracking.log_every_steps": 1}


@pytest.fixture(scope="module")
def alone(settings: dict[str, Any], created_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same by one process; gives its run."""
    folder = tmp_path_factory.mktemp("um")
    shutil.copy(created_store, folder / "mlflow.db")
    with in_store(f"sqlite:///{folder / 'mlflow.db'}", folder):
        trained = train_here(settings)
        return told(MlflowClient(), trained.run)


@pytest.fixture
def place(created_store: Path, tmp_path: Path) -> Path:
    shutil.copy(created_store, tmp_path / "mlflow.db")
    return tmp_path


def told(client: MlflowClient, run: Run) -> tuple[Run, dict[str, list[tuple[int, float]]], str]:
    """A run, its series, and its final texts."""
    series = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in SERIES
    }
    texts = Path(client.download_artifacts(run.info.run_id, "samples/final.csv")).read_text(encoding="utf-8")
    return run, series, texts


def only_run(place: Path) -> tuple[Run, dict[str, list[tuple[int, float]]], str]:
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return told(client, run)


def start(place: Path, settings: dict[str, Any], launcher: Sequence[str] = (), **others: Any) -> subprocess.Popen[str]:
    everything = {**settings, **{name.replace("__", "."): value for name, value in others.items()}}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "cartas_mlflow", "train", *(f"--{k}={v}" for k, v in everything.items())],
        cwd=place,
        env=environment_elsewhere(
            PYTHONPATH=str(PROJECT_ROOT), MLFLOW_TRACKING_URI=f"sqlite:///{place / 'mlflow.db'}", COLUMNS="1000"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_same(one: tuple[Run, Any, str], other: tuple[Run, Any, str]) -> None:
    """Up to how float32 sums in another order."""
    for name in SERIES:
        assert [step for step, _ in one[1][name]] == [step for step, _ in other[1][name]], name
        values = [value for _, value in other[1][name]]
        assert [value for _, value in one[1][name]] == pytest.approx(values, rel=2e-3), name
    assert one[2] == other[2]


@pytest.mark.slow
def test_started_by_torchrun_two_processes_train_what_one_trains(
    alone: tuple[Run, Any, str], settings: dict[str, Any], place: Path
) -> None:
    process = start(place, settings, BY_HAND)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == EXIT_OK, output
    assert_same(only_run(place), alone)
    assert output.count("Tokenização concluída") == 1
    assert "Batch efetivo: 8 (4 por passagem × 1 acumulação × 2 processos)" in output
    assert only_run(place)[0].data.params["training.num_processes"] == "2"

    (checkpoint, *_) = sorted(place.glob("results/*/checkpoints/checkpoint-*"))
    process = start(place, settings, [*BY_HAND[:-1], "4"], resume=checkpoint)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != EXIT_OK
    assert "training.num_processes=4 difere do treinamento interrompido (2); retire essa configuração" in output


@pytest.mark.slow
def test_two_processes_are_interrupted_and_go_on_as_one_is(
    alone: tuple[Run, Any, str], settings: dict[str, Any], place: Path
) -> None:
    process = start(place, settings, num_processes=2)
    wait_for_step(place, process, 6)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, output
    assert "Treinando com 2 processos" in output
    assert output.count("Treinamento interrompido pelo usuário") == 1
    assert followers_of(process.pid) == []

    process = start(place, settings, num_processes=2, resume="last")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == EXIT_OK, output
    assert_same(only_run(place), alone)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training_in_one_sentence(settings: dict[str, Any], place: Path) -> None:
    process = start(place, settings, num_processes=2, training__epochs=50)
    wait_for_step(place, process, 6)
    (follower,) = followers_of(process.pid)
    os.kill(follower.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_USER_ERROR, output
    assert "❌ O processo 2 de 2 morreu, e o treino parou" in output
    assert "Traceback" not in output


def wait_for_step(place: Path, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(f", {step}]" in path.read_text() for path in place.glob("results/*/journal/entries.jsonl")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def followers_of(pid: int) -> list[psutil.Process]:
    if not psutil.pid_exists(pid):
        return []
    return [child for child in psutil.Process(pid).children() if "cartas_mlflow" in child.cmdline()]


def test_alone_every_function_does_nothing() -> None:
    assert (processes.rank(), processes.count(), processes.leads()) == (0, 1, True)
    assert processes.collected(["a", "b"], 2) == ["a", "b"]
    assert processes.summed(1.5, 2) == [1.5, 2]
    assert (processes.any_of(True), processes.any_of(False)) == (True, False)
    assert processes.told_by_leader({"a": 1}) == {"a": 1}
    assert list(processes.share(3)) == [0, 1, 2]


def test_the_last_batch_is_filled_with_what_teaches_nothing() -> None:
    order = FilledOrder(RandomOrder(35, seed=1), batch_size=8, filler=35)
    first = list(order)
    assert len(first) == len(order) == 40
    assert sorted(first[:35]) == list(range(35))
    assert first[35:] == [35] * 5
    order.set_epoch(1)
    assert list(order) != first


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"training.num_processes": 3}, "training.batch_size=8 não se divide por 3 processos; use um múltiplo de 3."),
        (
            {"training.num_processes": 4, "training.micro_batch_size": 8},
            "training.micro_batch_size=8 não divide as 2 leituras que cabem a cada um dos 4 processos; use auto.",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_is_one_sentence(others: dict[str, int], sentence: str, tiny_base: Path) -> None:
    overrides = {"model.name": str(tiny_base), "training.device": "cpu", **others}
    config = load_config(overrides=overrides)
    base = load_model(settle_base(config, "configs/default.yaml", overrides))
    with pytest.raises(SettingError) as error:
        cut_batches(config, base, (20, 40))
    assert str(error.value) == sentence


def test_each_machine_needs_gpus_for_its_own_processes_alone(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"model.name": str(tiny_base), "training.device": "cpu", "training.num_processes": 4}
    config = load_config(overrides=overrides)
    base = load_model(settle_base(config, "configs/default.yaml", overrides))
    two_gpus = replace(base, hardware=replace(base.hardware, device="cuda", gpus=2))
    with pytest.raises(SettingError, match=r"training\.num_processes=4, mas este computador tem só 2 GPU; use "):
        cut_batches(config, two_gpus, (20, 40))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cut_batches(config, two_gpus, (20, 40)).micro_batch == 2
