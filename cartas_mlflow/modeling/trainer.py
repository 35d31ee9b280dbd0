"""The Seq2SeqTrainer with its corrections: the loss under accumulation, and an evaluation that really generates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.modeling.dropout import cheapen_dropout
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED_LABEL = -100
MODEL_INPUTS = ("input_ids", "attention_mask", "labels")
LOSS_BATCH = 16
"""Texts per forward pass of the validation loss, at most: 70 at once take 1.4 to 1.6 times as long on a CPU (with 9.4
and 222.9 million parameters) and a GiB more for their logits. Generation, which keeps none, likes larger batches."""


@dataclass(frozen=True)
class ValidationSet:
    """What an evaluation needs. ``encoded`` has the columns of :class:`~cartas_mlflow.data.encoding.EncodedTexts`."""

    prompts: Sequence[str]
    encoded: Dataset


@dataclass(frozen=True)
class Evaluation:
    """``texts``: generated, in the order of the prompts; ``metrics``: without prefix, ``loss`` in nats per token."""

    metrics: dict[str, float]
    texts: tuple[str, ...]
    seconds: float


class ReadingTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer for readings.

    - The loss is the mean over the target tokens of the whole optimizer step, however the step is cut in micro-batches.
      (The library divides T5's loss by nothing under accumulation, and multiplies loss and gradients by the number of
      micro-batches.)
    - An evaluation generates with the project's own routine, texts in the order of the records, and takes the loss as
      the mean over all target tokens, independent of the evaluation batch. Length grouping cannot reorder it.
    - A training that goes on from a checkpoint, in mid-epoch too, ends with the weights of one that never stopped.

    Args:
        score: generated texts, in order -> metrics; an error in it is an error of the run.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        config: ExperimentConfig,
        validation: ValidationSet,
        score: Callable[[Sequence[str]], dict[str, float]],
        tokenizer: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            compute_loss_func=self._step_loss,
            eval_dataset=validation.encoded,
            processing_class=tokenizer,
            data_collator=reading_collator(tokenizer, model),
            **kwargs,
        )
        self.config, self.validation, self.score = config, validation, score
        self.last_evaluation: Evaluation | None = None
        self.add_callback(EpochLoss())
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        cheapen_dropout(model)

    @property
    def epoch_loss(self) -> EpochLoss:
        """The training loss since the last evaluation. (Looked up: a resumption puts another object in its place.)"""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, EpochLoss))

    @property
    def ran_out_of_patience(self) -> bool:
        """Early stopping has called the end. (Looked up: as above.)"""
        stoppers = (c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback))
        return any(stopper.early_stopping_patience_counter >= stopper.early_stopping_patience for stopper in stoppers)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedOrder(list(self.train_dataset["length"]), step, self.args.seed)

    def _step_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total, tokens = summed_loss(outputs.logits, labels)
        if not torch.isfinite(total):
            raise TrainingError(
                f"A perda deixou de ser um número no passo {self.state.global_step + 1}; use "
                "training.precision=float32 ou uma training.learning_rate menor."
            )
        self.epoch_loss.add(total.item(), int(tokens))
        return total / (num_items_in_batch if num_items_in_batch is not None else tokens)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> dict[str, float]:
        """Evaluate on the validation set, log, tell the callbacks. ``epoch_train_loss``: mean since the last time."""
        evaluation = evaluate_model(self.model, self.processing_class, self.validation, self.config, self.score)
        self.last_evaluation = evaluation
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in evaluation.metrics.items()}
        metrics["epoch_train_loss"] = self.epoch_loss.take()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class TokenMean:
    """Running mean of a loss over tokens."""

    def __init__(self) -> None:
        self.total, self.tokens = 0.0, 0

    def add(self, total: float, tokens: int) -> None:
        self.total, self.tokens = self.total + total, self.tokens + tokens

    def take(self) -> float:
        """The mean so far, in nats per token; starts anew."""
        mean = self.total / self.tokens if self.tokens else math.nan
        self.total, self.tokens = 0.0, 0
        return mean


class EpochLoss(TokenMean, TrainerCallback, ExportableState):
    """A mean that checkpoints keep, so that an epoch that was interrupted counts whole."""

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"total": self.total, "tokens": self.tokens}}


class LengthGroupedOrder(LengthGroupedSampler):
    """Batches of similar length, in an order that hangs on the seed and the epoch alone.

    The library's own order hangs on the state of the global generator, which is another one when a training goes on in
    mid-epoch: it would meet some readings of that epoch twice and others never.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over the target tokens (nats), and their number; labels of -100 do not count."""
    total = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    return total, (labels != IGNORED_LABEL).sum()


def evaluate_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    validation: ValidationSet,
    config: ExperimentConfig,
    score: Callable[[Sequence[str]], dict[str, float]],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Teacher-forced loss, generated texts and their metrics. The loss is computed in float32."""
    started = time.perf_counter()
    loss = validation_loss(model, tokenizer, validation.encoded, min(config.evaluation.batch_size, LOSS_BATCH))
    texts = generate_texts(
        model,
        tokenizer,
        validation.prompts,
        config.generation,
        batch_size=config.evaluation.batch_size,
        max_length=config.data.max_length,
        on_progress=on_progress,
    )
    return Evaluation({"loss": loss, **score(texts)}, tuple(texts), time.perf_counter() - started)


def reading_collator(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | PeftModel) -> DataCollatorForSeq2Seq:
    """Pads prompts and targets to the longest of the batch, each for itself."""
    return DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED_LABEL)


def validation_loss(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset, batch_size: int
) -> float:
    """Mean cross-entropy over all target tokens (nats per token), the same whatever the batch size.

    Always in float32, on the model inside the PEFT wrapper: once it has trained, the wrapper's ``forward`` computes in
    the training's precision, and the same adapter would have two losses.
    """
    from peft import PeftModel

    collator = reading_collator(tokenizer, model)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    mean, was_training = TokenMean(), model.training
    lengths = list(encoded["length"])
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = [encoded[index] for index in order[start : start + batch_size]]
            batch = collator([{key: row[key] for key in MODEL_INPUTS} for row in rows]).to(model.device)
            labels = batch.pop("labels")
            total, tokens = summed_loss(inner(**batch).logits, labels)
            mean.add(total.item(), int(tokens))
    model.train(was_training)
    return mean.take()


def training_arguments(
    config: ExperimentConfig,
    output_dir: Path,
    *,
    device: str,
    precision: str,
    micro_batch_size: int,
    steps_per_epoch: int,
) -> Seq2SeqTrainingArguments:
    """The project's settings as the library's arguments."""
    training, metric = config.training, config.early_stopping.metric
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=training.batch_size // micro_batch_size,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=round(training.warmup_ratio * steps_per_epoch * training.epochs),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optimizer,
        seed=training.seed,
        data_seed=training.seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device == "cpu",
        activation_checkpointing=training.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if training.group_by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=training.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{metric}",
        greater_is_better=metric != "loss",
        restore_callback_states_from_checkpoint=training.resume is not None,
        logging_steps=config.tracking.log_every_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=True,
    )
    # Several visible GPUs would silently become DataParallel, which 4-bit bases do not survive.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def early_stopping(config: ExperimentConfig) -> list[TrainerCallback]:
    """Patience and threshold as a callback; none with patience 0."""
    settings = config.early_stopping
    if settings.patience == 0:
        return []
    return [
        EarlyStoppingCallback(early_stopping_patience=settings.patience, early_stopping_threshold=settings.threshold)
    ]


class EvaluateEvery(TrainerCallback):
    """Evaluate and save only every ``epochs`` epochs, and at the last."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        epoch = round(state.epoch or 0)
        if epoch % self.epochs and epoch < args.num_train_epochs:
            control.should_evaluate = control.should_save = False
