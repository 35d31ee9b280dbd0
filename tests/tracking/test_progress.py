"""What the user reads after each epoch, and a bar only where there is a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.tracking import progress as progress_module
from cartas_mlflow.tracking.progress import Progress, progress_bar

METRICS = {
    "epoch_train_loss": 2.12341,
    "eval_loss": 1.98764,
    "eval_rougeL": 0.1234,
    "eval_bleu": 0.0987,
    "eval_chrf": 0.2,
}


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def begin(progress: Progress, folder: Path, *, epoch: float = 0.0) -> None:
    state = TrainerState(epoch=epoch, global_step=int(epoch * 10), max_steps=200)
    progress.on_train_begin(TrainingArguments(output_dir=str(folder), use_cpu=True), state, TrainerControl())


def test_an_epoch_is_the_guides_lines_and_the_time(clock: Clock, said: list[str], tmp_path: Path) -> None:
    progress = Progress(epochs=20)
    begin(progress, tmp_path)
    clock.now += 12
    progress.show_epoch(1, METRICS, best=True)
    assert said == [
        "Epoch 1/20  ★ melhor até aqui",
        "  Train Loss: 2.1234",
        "  Eval Loss: 1.9876",
        "  Eval ROUGE-L: 0.1234",
        "  Eval BLEU: 0.0987   (chrF: 0.2000)",
        "  Tempo por época: 12.0 s; restam cerca de 3 min 48 s",  # 19 × 12 s
        "Tempo estimado por época: 12.0 s",
        "Tempo total estimado: cerca de 4 min 00 s",
    ]


def test_the_estimate_is_given_once(clock: Clock, said: list[str], tmp_path: Path) -> None:
    progress = Progress(epochs=4)
    begin(progress, tmp_path)
    for epoch in (2, 4):  # an evaluation every 2 epochs
        clock.now += 10
        progress.show_epoch(epoch, METRICS, best=False)
    assert [line for line in said if "estimado" in line] == [
        "Tempo estimado por época: 5.0 s",
        "Tempo total estimado: cerca de 20.0 s",
    ]
    assert said[0] == "Epoch 2/4"
    assert said[-1] == "  Tempo por época: 5.0 s"


def test_a_training_that_goes_on_counts_only_the_epochs_of_now(clock: Clock, said: list[str], tmp_path: Path) -> None:
    progress = Progress(epochs=20)
    begin(progress, tmp_path, epoch=9.5)
    clock.now += 5
    progress.show_epoch(10, METRICS, best=False)  # half an epoch in 5 s
    assert said[5] == "  Tempo por época: 10.0 s; restam cerca de 1 min 40 s"


def test_where_a_training_may_stop_early_the_time_is_a_limit(clock: Clock, said: list[str], tmp_path: Path) -> None:
    progress = Progress(epochs=3, may_stop_early=True)
    begin(progress, tmp_path)
    clock.now += 10
    progress.show_epoch(1, METRICS, best=True)
    assert said[5] == "  Tempo por época: 10.0 s; restam no máximo 20.0 s"
    assert said[-1] == "Tempo total estimado: no máximo 30.0 s"


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(10, "Treino", "passo") as bar:
        bar.update(5)
    assert stream.getvalue() == ""


def test_on_a_terminal_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(10, "Treino", "passo", initial=5) as bar:
        bar.update(5)
        bar.refresh()
    assert "Treino" in stream.getvalue()
    assert "5/10" in stream.getvalue()
