"""Fit one adapter: the trainer with its callbacks, and what came out of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.console import say
from cartas_mlflow.errors import OutOfMemory
from cartas_mlflow.evaluation.baselines import Sources, look_up
from cartas_mlflow.evaluation.confidence import Answers
from cartas_mlflow.evaluation.metrics import score_texts
from cartas_mlflow.modeling.checkpoints import newest_checkpoint
from cartas_mlflow.modeling.hardware import is_lack_of_memory
from cartas_mlflow.modeling.interruption import Interruption
from cartas_mlflow.modeling.loading import load_base
from cartas_mlflow.modeling.memory import release_memory
from cartas_mlflow.modeling.parking import parked
from cartas_mlflow.modeling.plan import WorkPlan
from cartas_mlflow.modeling.precision import Precision
from cartas_mlflow.modeling.trainer import (
    BestBeside,
    EvaluateEvery,
    ReadingTrainer,
    early_stopping,
    training_arguments,
)
from cartas_mlflow.modeling.validation import Evaluation, ValidationSet, evaluate_model
from cartas_mlflow.registry.model import open_folder
from cartas_mlflow.settings import LOWER_IS_BETTER, ExperimentConfig
from cartas_mlflow.tracking.callback import MlflowLogging
from cartas_mlflow.tracking.progress import Progress, progress_bar
from cartas_mlflow.tracking.run import TrackedRun
from cartas_mlflow.training.preparation import PreparedData, Setup

if TYPE_CHECKING:
    from transformers import TrainerCallback

Score = Callable[[Sequence[str]], dict[str, float]]


@dataclass(frozen=True)
class Order:
    """What the leader of several processes tells the others: its choices, and where the checkpoints are."""

    precision: Precision
    plan: WorkPlan
    folder: str
    resume: Path | None


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
    references = [record.texto for record in data.measured]
    known = Sources(record.texto for record in data.split.train)

    def score(texts: Sequence[str]) -> dict[str, float]:
        runs = known.longest_runs(texts)
        copied = {
            "copied_share": sum(run >= copied_words for run in runs) / len(runs),
            "longest_copied_run": float(max(runs)),
        }
        return {**score_texts(texts, references), **copied}

    return score


def look_up_texts(data: PreparedData) -> list[str]:
    """For each validation prompt the best-matching training text."""
    known = ((record.fields(), record.texto) for record in data.split.train)
    return look_up([record.fields() for record in data.measured], known)


def score_lookup(data: PreparedData, score: Score) -> dict[str, float]:
    """The metrics of answering each validation prompt with the best-matching training text."""
    return score(look_up_texts(data))


def evaluate(setup: Setup, score: Score, title: str) -> Evaluation:
    """Evaluate outside training, with a bar under the title."""
    validation = _validation_set(setup)
    with progress_bar(len(validation.prompts), title) as bar:
        return evaluate_model(
            setup.model,
            setup.base.tokenizer,
            validation,
            setup.config,
            score,
            batch_size=setup.encoded.plan.evaluation_batch,
            on_progress=bar.update,
        )


def evaluate_untuned(setup: Setup, score: Score) -> Evaluation:
    """Evaluate the base before it learns, as it will be served, so that both figures compare."""
    base = setup.base
    if base.quantization is None:
        return evaluate(setup, score, "Base sem ajuste")
    with parked(setup.model):
        served = load_base(base.location, setup.encoded.plan.serving_device)
        try:
            return evaluate(replace(setup, model=served), score, "Base sem ajuste")
        finally:
            del served
            release_memory()


def evaluate_served(setup: Setup, adapter: Path, score: Score) -> Evaluation:
    """Evaluate an adapter's folder as it is served: merged, on a base that is not quantised."""
    served = open_folder(adapter, device=setup.encoded.plan.serving_device)
    try:
        return evaluate(replace(setup, model=served.model), score, "Avaliação final")
    finally:
        del served
        release_memory()


def fit(
    setup: Setup,
    score: Score,
    *,
    run: TrackedRun | None,
    folder: Path,
    resume: Path | None,
    on_answers: Callable[[int, Answers], None] = lambda epoch, answers: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fit:
    """Train until the last epoch, early stopping, or an interruption.

    Args:
        run: told of the training; None for a process that only takes part in it.
        folder: where the checkpoints go.
        on_answers: told (epoch, what was made of the validation records) after each evaluation.
        callbacks: further ones, told after the others.

    Raises:
        TrainingError: the loss is no longer a number, or the memory does not suffice.
    """
    from transformers import set_seed

    config, plan = setup.config, setup.encoded.plan
    progress = Progress(config.training.epochs, may_stop_early=config.early_stopping.patience > 0)
    interruption = Interruption()

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        # The trainer takes note of a new best only after its callbacks have run.
        progress.show_epoch(epoch, metrics, best=_is_better(metrics, trainer.state.best_metric, config))
        on_answers(epoch, trainer.last_evaluation.answers)

    speaking = [] if run is None else [MlflowLogging(run, on_epoch), progress]
    set_seed(config.training.seed)
    trainer = ReadingTrainer(
        model=setup.model,
        args=training_arguments(
            config,
            folder,
            device=setup.base.hardware.device,
            precision=setup.base.precision.dtype,
            micro_batch_size=plan.micro_batch,
            checkpointing=plan.checkpointing,
            steps_per_epoch=math.ceil(len(setup.data.split.train) / config.training.batch_size),
        ),
        train_dataset=setup.encoded.train.dataset,
        config=config,
        validation=_validation_set(setup),
        evaluation_batch=plan.evaluation_batch,
        score=score,
        tokenizer=setup.base.tokenizer,
        callbacks=[
            BestBeside(),
            EvaluateEvery(config.evaluation.every_epochs),
            *speaking,
            *early_stopping(config),
            interruption,
        ],
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    started = time.perf_counter()
    try:
        with interruption.listen():
            output = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        memory = "memória da GPU" if setup.base.hardware.device == "cuda" else "memória"
        raise OutOfMemory(
            f"A {memory} não bastou para o otimizador ou o checkpoint; feche outros programas, ou use um lora.r menor."
        ) from error
    state, history = trainer.state, tuple(_history(trainer.state.log_history))
    last = round(history[-1]["epoch"]) if history else 0
    figures = {name: float(value) for name, value in output.metrics.items() if name != "epoch"}
    result = Fit(
        best_epoch=next((round(row["epoch"]) for row in history if row["step"] == state.best_global_step), last),
        steps=state.global_step,
        history=history,
        stopped_early=state.global_step < state.max_steps and trainer.ran_out_of_patience,
        interrupted=interruption.requested,
        checkpoint=newest_checkpoint(folder),
        figures={**figures, "train_runtime": time.perf_counter() - started},
    )
    if not result.interrupted:
        _say_ending(result, config)
    return result


def _validation_set(setup: Setup) -> ValidationSet:
    data, records = setup.data, setup.data.measured
    return ValidationSet(
        data.prompts(records),
        setup.encoded.validation.dataset,
        [record.texto for record in records],
        data.rivals(records),
    )


def _is_better(metrics: Mapping[str, float], best: float | None, config: ExperimentConfig) -> bool:
    metric = config.early_stopping.metric
    value = metrics[f"eval_{metric}"]
    return best is None or (value < best if metric in LOWER_IS_BETTER else value > best)


def _say_ending(result: Fit, config: ExperimentConfig) -> None:
    if result.stopped_early:
        settings = config.early_stopping
        say(
            f"Early stopping na época {result.history[-1]['epoch']:.0f}: eval_{settings.metric} parou de melhorar "
            f"(early_stopping.patience={settings.patience}, early_stopping.threshold={settings.threshold:g})"
        )
    say(f"Melhor modelo restaurado: o da época {result.best_epoch}")


def _history(log: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    rows = [dict(row) for row in log if "eval_loss" in row]
    return [{**row, "epoch": float(round(row["epoch"]))} for row in rows]
