"""Fit one adapter: the trainer with its callbacks, and what came out of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.evaluation.baselines import longest_copied_runs, look_up
from cartas_mlflow.evaluation.metrics import score_texts
from cartas_mlflow.modeling.checkpoints import complete_checkpoints
from cartas_mlflow.modeling.interruption import Interruption
from cartas_mlflow.modeling.trainer import (
    EvaluateEvery,
    Evaluation,
    ReadingTrainer,
    ValidationSet,
    early_stopping,
    evaluate_model,
    training_arguments,
)
from cartas_mlflow.pipelines.preparation import EncodedSplit, LoadedBase, PreparedData
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.callback import MlflowLogging
from cartas_mlflow.tracking.progress import Progress, progress_bar

if TYPE_CHECKING:
    from peft import PeftModel

Score = Callable[[Sequence[str]], dict[str, float]]


@dataclass(frozen=True)
class Fit:
    """A training that ended, by itself or by the user. The model holds the best epoch's adapter."""

    best_epoch: int
    steps: int
    """Optimizer steps taken."""
    history: tuple[Mapping[str, float], ...]
    """One row per evaluation: epoch, epoch_train_loss, eval_*."""
    stopped_early: bool
    interrupted: bool
    checkpoint: Path | None
    """The newest complete checkpoint."""
    figures: Mapping[str, float]
    """train_runtime (s), train_samples_per_second, total_flos, train_loss."""


def reading_score(data: PreparedData, copied_words: int) -> Score:
    """Generated validation texts -> metrics against the real ones, and how much they copy from the training texts."""
    references = [record.texto for record in data.split.validation]
    known = [record.texto for record in data.split.train]

    def score(texts: Sequence[str]) -> dict[str, float]:
        runs = longest_copied_runs(texts, known)
        copied = {
            "copied_share": sum(run >= copied_words for run in runs) / len(runs),
            "longest_copied_run": float(max(runs)),
        }
        return {**score_texts(texts, references), **copied}

    return score


def score_lookup(data: PreparedData, score: Score) -> dict[str, float]:
    """The metrics of answering each validation prompt with the best-matching training text."""
    known = [(record.fields(), record.texto) for record in data.split.train]
    return score(look_up([record.fields() for record in data.split.validation], known))


def evaluate(
    model: PeftModel,
    base: LoadedBase,
    data: PreparedData,
    encoded: EncodedSplit,
    config: ExperimentConfig,
    score: Score,
    title: str,
) -> Evaluation:
    """Evaluate outside training, with a bar."""
    validation = ValidationSet(data.prompts(data.split.validation), encoded.validation.dataset)
    with progress_bar(len(data.split.validation), title) as bar:
        return evaluate_model(model, base.tokenizer, validation, config, score, on_progress=bar.update)


def fit(
    model: PeftModel,
    base: LoadedBase,
    data: PreparedData,
    encoded: EncodedSplit,
    config: ExperimentConfig,
    score: Score,
    *,
    run_id: str,
    folder: Path,
    resume: Path | None,
    on_texts: Callable[[int, Sequence[str]], None],
) -> Fit:
    """Train until the last epoch, early stopping, or an interruption.

    Args:
        folder: where the checkpoints go.
        on_texts: told (epoch, generated validation texts) after each evaluation.

    Raises:
        TrainingError: the loss is no longer a number, or the memory does not suffice.
    """
    import torch
    from transformers import set_seed

    steps_per_epoch = math.ceil(len(data.split.train) / config.training.batch_size)
    arguments = training_arguments(
        config,
        folder,
        device=base.hardware.device,
        precision=base.precision.dtype,
        micro_batch_size=encoded.micro_batch_size,
        steps_per_epoch=steps_per_epoch,
    )
    progress, interruption = Progress(config.training.epochs), Interruption()
    best = BestSoFar(config.early_stopping.metric)

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        progress.show_epoch(epoch, metrics, best=best.update(metrics))
        on_texts(epoch, trainer.last_evaluation.texts)

    set_seed(config.training.seed)
    trainer = ReadingTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded.train.dataset,
        config=config,
        validation=ValidationSet(data.prompts(data.split.validation), encoded.validation.dataset),
        score=score,
        tokenizer=base.tokenizer,
        callbacks=[
            EvaluateEvery(config.evaluation.every_epochs),
            MlflowLogging(run_id, on_epoch),
            progress,
            *early_stopping(config),
            interruption,
        ],
    )
    started = time.perf_counter()
    try:
        with interruption.listen():
            output = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"A memória da GPU não bastou com {encoded.micro_batch_size} exemplos por passagem; use um "
            "training.micro_batch_size menor, ou training.gradient_checkpointing=true."
        ) from error
    history = tuple(_history(trainer.state.log_history))
    checkpoints = complete_checkpoints(folder)
    best_step = trainer.state.best_global_step
    figures = {name: float(value) for name, value in output.metrics.items() if name != "epoch"}
    return Fit(
        best_epoch=next((round(row["epoch"]) for row in history if row["step"] == best_step), 0),
        steps=trainer.state.global_step,
        history=history,
        stopped_early=not interruption.requested and trainer.state.global_step < trainer.state.max_steps,
        interrupted=interruption.requested,
        checkpoint=checkpoints[-1] if checkpoints else None,
        figures={**figures, "train_runtime": time.perf_counter() - started},
    )


class BestSoFar:
    """Says whether an evaluation is the best yet by the metric that chooses the epoch."""

    def __init__(self, metric: str) -> None:
        self.key, self.sign = f"eval_{metric}", -1 if metric == "loss" else 1
        self.best = -math.inf

    def update(self, metrics: Mapping[str, float]) -> bool:
        value = self.sign * metrics[self.key]
        if value <= self.best:
            return False
        self.best = value
        return True


def _history(log: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    rows = [dict(row) for row in log if "eval_loss" in row]
    return [{**row, "epoch": float(round(row["epoch"]))} for row in rows]
