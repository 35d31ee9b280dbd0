"""Real signals to a real training: what is saved, how it ends, how it goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.modeling.checkpoints import checkpoint_step

pytestmark = pytest.mark.slow

RECIPE = {
    "training.epochs": "4",
    "training.batch_size": "1",
    "training.learning_rate": "1e-3",
    "training.device": "cpu",
    "training.precision": "float32",
    "lora.r": "4",
    "generation.max_new_tokens": "2",
    "tracking.system_metrics": "false",
}
STEPS_PER_EPOCH = 35
GOING_ON = "Para continuar: python -m cartas_mlflow train --resume "

Start = Callable[..., "Training"]


class Training:
    """A ``train`` command in a process of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(PROJECT_ROOT)}
        self.folder = folder
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cartas_mlflow", "train", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def hear(self, beginning: str) -> str:
        """Wait for a line; gives it."""
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return self.said[-1]
        raise AssertionError("\n".join(self.said))

    def end(self) -> int:
        """Hear the rest; gives the exit code."""
        with self.process.stdout as rest:
            self.said += rest.read().splitlines()
        return self.process.wait()


@pytest.fixture(scope="module")
def start(
    tiny_base: Path,
    bundled_rows: list[dict[str, str]],
    created_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Start]:
    """Start a training in a folder of its own; none outlives the tests."""
    import pandas as pd

    started: list[Training] = []

    def start(rows: int = 42, **settings: str) -> Training:
        folder = tmp_path_factory.mktemp("training")
        shutil.copy(created_store, folder / "mlflow.db")
        pd.DataFrame(bundled_rows[:rows]).to_csv(folder / "leituras.csv", index=False)
        values = {"model.name": str(tiny_base), "data.path": "leituras.csv", **RECIPE}
        values |= {name.replace("__", "."): value for name, value in settings.items()}
        started.append(Training(folder, [f"--{name}={value}" for name, value in values.items()]))
        return started[-1]

    yield start
    for training in started:
        training.process.kill()
        training.process.wait()
        training.process.stdout.close()


@pytest.fixture(scope="module")
def interrupted(start: Start) -> dict[signal.Signals, Training]:
    """A training that got Ctrl+C in its second epoch, and one that was told to stop there (they ran side by side)."""
    trainings = {number: start() for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: signal.Signals) -> None:
        trainings[number].hear("Epoch 1/4")
        trainings[number].process.send_signal(number)
        trainings[number].end()

    with ThreadPoolExecutor() as pool:
        list(pool.map(interrupt, trainings))
    return trainings


def run_of(training: Training):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{training.folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("cartas-ptt5").experiment_id])
    return client, run


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl+C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_in_mid_training_leaves_a_complete_checkpoint_and_exit_code_130(
    interrupted: dict[signal.Signals, Training], number: signal.Signals, name: str
) -> None:
    training = interrupted[number]
    assert training.process.returncode == 130
    announced = training.said.index(f"⚠️ Treinamento interrompido pelo usuário ({name})")
    assert training.said[announced + 1] == "💾 Salvando checkpoint de emergência..."
    assert not any("Traceback" in line for line in training.said)
    checkpoint = Path(next(line for line in training.said if line.startswith(GOING_ON)).removeprefix(GOING_ON))
    assert f"✅ Checkpoint de emergência salvo em: {checkpoint}" in training.said
    assert STEPS_PER_EPOCH < checkpoint_step(checkpoint) < 4 * STEPS_PER_EPOCH
    assert checkpoint_step(checkpoint) % STEPS_PER_EPOCH != 0
    _, run = run_of(training)
    assert (run.info.status, run.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert "eval/loss" in run.data.metrics and "final/loss" not in run.data.metrics


def test_an_interrupted_training_goes_on_in_the_same_run_to_the_end(
    interrupted: dict[signal.Signals, Training],
) -> None:
    stopped = interrupted[signal.SIGINT]
    command = next(line for line in stopped.said if line.startswith(GOING_ON))
    _, before = run_of(stopped)
    resumed = Training(stopped.folder, command.split(" train ")[1].split())
    assert resumed.end() == 0, "\n".join(resumed.said)
    epochs = [int(line[6]) for line in resumed.said if line.startswith("Epoch")]
    assert epochs == list(range(epochs[0], 5)) and epochs[0] > 1
    client, run = run_of(stopped)
    assert run.info.run_id == before.info.run_id
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "eval/loss")] == [1, 2, 3, 4]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(5, 141, 5))


def test_a_second_ctrl_c_stops_at_once(start: Start) -> None:
    # One optimizer step over all the readings, one by one: seconds in which no checkpoint can be written.
    training = start(rows=462, training__batch_size="392", training__micro_batch_size="1", training__epochs="1")
    training.hear("8. INICIANDO TREINAMENTO")
    time.sleep(1)
    training.process.send_signal(signal.SIGINT)
    training.hear("💾 Salvando checkpoint de emergência...")
    training.process.send_signal(signal.SIGINT)
    assert training.end() == 130
    assert training.said[-1] == "⚠️ Nenhum checkpoint foi salvo: a interrupção veio antes do primeiro passo."
    assert not any("Traceback" in line for line in training.said)
    assert list(training.folder.glob("results/*/checkpoints/checkpoint-*")) == []
    _, run = run_of(training)
    assert (run.info.status, run.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert "eval/loss" not in run.data.metrics
