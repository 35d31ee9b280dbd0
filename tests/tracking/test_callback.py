"""Two kinds of series on two axes: per step by the global step, per epoch by the epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.tracking.callback import MlflowLogging
from cartas_mlflow.tracking.journal import Journal
from cartas_mlflow.tracking.run import TrackedRun

Point = tuple[int, float]


class Training:
    """Calls the callback as the trainer does."""

    def __init__(self, folder: Path) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.journal = Journal(folder / "journal")
        run = TrackedRun("0" * 32, "cartas-ptt5", inside_project=False, journal=self.journal)
        self.logging = MlflowLogging(run, lambda epoch, metrics: self.told.append((epoch, dict(metrics))))
        self.state, self.control = TrainerState(), TrainerControl()
        self.arguments = TrainingArguments(output_dir=str(folder), use_cpu=True)

    def log(self, step: int, **logs: float) -> None:
        self.state.global_step = step
        self.logging.on_log(self.arguments, self.state, self.control, logs=logs)

    def evaluate(self, epoch: float, **metrics: float) -> None:
        self.state.epoch = epoch
        self.logging.on_evaluate(self.arguments, self.state, self.control, metrics=metrics)

    def series(self, name: str) -> list[Point]:
        return [(point.step, point.value) for point in self.journal.points.values() if point.name == name]


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def test_step_series_use_the_global_step(training: Training) -> None:
    training.log(5, loss=3.5, learning_rate=1e-4, grad_norm=0.7, epoch=0.5)
    training.log(10, loss=3.1, learning_rate=2e-4, grad_norm=0.6, epoch=1.0)
    assert training.series("train/loss") == [(5, 3.5), (10, 3.1)]
    assert training.series("train/learning_rate") == [(5, 1e-4), (10, 2e-4)]
    assert training.series("train/grad_norm") == [(5, 0.7), (10, 0.6)]
    assert training.series("epoch") == []


def test_epoch_series_use_the_epoch(training: Training) -> None:
    # The trainer's epoch is a sum of fractions.
    training.log(49, loss=3.5)
    training.evaluate(0.9999999, eval_loss=3.2, eval_rougeL=0.1, epoch_train_loss=3.4)
    training.log(98, loss=3.0)
    training.evaluate(2.0, eval_loss=3.0, eval_rougeL=0.2, epoch_train_loss=3.1)
    assert training.series("eval/loss") == [(1, 3.2), (2, 3.0)]
    assert training.series("eval/rougeL") == [(1, 0.1), (2, 0.2)]
    assert training.series("train/epoch_loss") == [(1, 3.4), (2, 3.1)]


def test_what_the_trainer_logs_of_an_evaluation_or_of_the_whole_is_not_logged_twice(training: Training) -> None:
    training.log(10, eval_loss=3.2, epoch=1.0)
    training.log(10, train_runtime=12.0, train_loss=3.3, epoch=1.0)
    assert len(training.journal) == 0


def test_an_epoch_is_told_when_it_has_been_logged(training: Training) -> None:
    training.logging.on_epoch = lambda epoch, metrics: training.told.append(
        (epoch, {"stored": training.series("eval/loss")[-1][1], **metrics})
    )
    training.evaluate(1.0, eval_loss=3.2)
    assert training.told == [(1, {"stored": 3.2, "eval_loss": 3.2})]


def test_a_training_that_goes_on_repeats_steps_and_no_point_stands_twice(training: Training, tmp_path: Path) -> None:
    training.log(5, loss=3.5)
    training.log(10, loss=3.1)
    training.evaluate(1.0, eval_loss=3.2)
    again = Training(tmp_path)
    again.log(10, loss=3.1)
    again.log(15, loss=2.9)
    again.evaluate(1.0, eval_loss=3.2)
    assert again.series("train/loss") == [(5, 3.5), (10, 3.1), (15, 2.9)]
    assert again.series("eval/loss") == [(1, 3.2)]
    assert len(again.journal) == 4
