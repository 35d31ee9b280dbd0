"""The Seq2SeqTrainer with its corrections: the loss under accumulation, and an evaluation that really generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
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

from cartas_mlflow.files import seal
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.attention import lean_attention
from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL, head_deferred, summed_cross_entropy
from cartas_mlflow.modeling.epoch_loss import EpochLoss
from cartas_mlflow.modeling.hardware import is_lack_of_memory
from cartas_mlflow.modeling.likelihood import reading_collator
from cartas_mlflow.modeling.memory import halve
from cartas_mlflow.modeling.order import FilledOrder, LengthGroupedOrder, RandomOrder, with_filler
from cartas_mlflow.modeling.precision import fast_products
from cartas_mlflow.modeling.rounding import forget_rounded, round_anew
from cartas_mlflow.modeling.saving import save_or_skip
from cartas_mlflow.modeling.validation import (
    Evaluation,
    ValidationSet,
    evaluate_model,
)
from cartas_mlflow.settings import LOWER_IS_BETTER, ExperimentConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


PASS = ("exemplo por passagem", "exemplos por passagem")
SMALLER_TRAINING = "use training.gradient_checkpointing=true, model.quantization=true ou um modelo base menor"


class ReadingTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer for readings.

    - The loss is the mean over the target tokens of the whole optimizer step, however the step is cut in micro-batches.
      (The library divides T5's loss by nothing under accumulation, and multiplies loss and gradients by the number of
      micro-batches.)
    - An evaluation generates with the project's own routine, texts in the order of the records, and takes the loss as
      the mean over all target tokens, independent of the evaluation batch. Length grouping cannot reorder it.
    - A training that goes on from a checkpoint, in mid-epoch too, ends with the weights of one that never stopped.
    - A pass that the memory does not suffice for is made in halves, with the same gradient; so are all that follow.
    - A checkpoint for which the disk has no room is left out, and the best epoch is one that was saved.
    - The logits over the whole vocabulary are never held at once, and the loss is looked at once a step, not once a
      pass: a GPU need not wait for it.

    Args:
        evaluation_batch: texts generated at once.
        score: generated texts, in order -> metrics; an error in it is an error of the run.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        config: ExperimentConfig,
        validation: ValidationSet,
        evaluation_batch: int,
        score: Callable[[Sequence[str]], dict[str, float]],
        tokenizer: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        from cartas_mlflow.modeling.lean import make_lean  # the adapters' library is heavy, and loaded by now

        if processes.count() > 1:
            kwargs["train_dataset"] = with_filler(kwargs["train_dataset"])
        super().__init__(
            model=model,
            compute_loss_func=self._step_loss,
            eval_dataset=validation.encoded,
            processing_class=tokenizer,
            data_collator=reading_collator(tokenizer, model),
            **kwargs,
        )
        self.config, self.validation, self.score = config, validation, score
        self.evaluation_batch = evaluation_batch
        self.examples_at_once = self.args.train_batch_size
        self.last_evaluation: Evaluation | None = None
        self._best_saved: tuple[float | None, int | None, str | None] | None = None
        self.add_callback(EpochLoss())
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        make_lean(model)
        if self.args.activation_checkpointing:
            round_anew(model)

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
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if not grouped and processes.count() == 1:
            return super()._get_train_sampler(train_dataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes.count()
        if processes.count() == 1:
            return LengthGroupedOrder(list(self.train_dataset["length"]), step, self.args.seed)
        lengths = list(self.train_dataset["length"])[:-1]
        seed = self.args.seed
        order = LengthGroupedOrder(lengths, step, seed) if grouped else RandomOrder(len(lengths), seed)
        filled = FilledOrder(order, step, filler=len(lengths))
        self.add_callback(filled)
        return filled

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's."""
        with head_deferred(self.model) as self._head, fast_products(), lean_attention():
            try:
                return super().train(*args, **kwargs)
            finally:
                forget_rounded(self.model)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self._best_saved is None:
            self._best_saved = self._best()
        return super()._determine_best_metric(metrics, trial)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder, save = Path(self.args.output_dir), super()._save_checkpoint
        if processes.count() > 1:
            self._save_together(folder / f"checkpoint-{self.state.global_step}", lambda: save(model, trial))
        elif save_or_skip(folder / f"checkpoint-{self.state.global_step}", lambda: save(model, trial)):
            self._best_saved = self._best()
        elif self._best_saved is not None:
            # The best epoch is one that can be given back.
            self.state.best_metric, self.state.best_global_step, self.state.best_model_checkpoint = self._best_saved

    def _save_together(self, checkpoint: Path, save: Callable[[], None]) -> None:
        """Each process writes the state of its own generator; the leader writes the rest."""
        self.epoch_loss.gather()
        save()
        processes.wait_for_all()
        if processes.leads():
            seal(checkpoint)

    def _best(self) -> tuple[float | None, int | None, str | None]:
        return self.state.best_metric, self.state.best_global_step, self.state.best_model_checkpoint

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of one pass, in as many pieces as the memory asks for; gives the pass's loss.

        Raises:
            OutOfMemory: not even one example fits.
        """
        losses, start = [], 0
        while start < len(inputs["labels"]):
            piece = {name: rows[start : start + self.examples_at_once] for name, rows in inputs.items()}
            size = len(piece["labels"])
            loss = self._try_piece(model, piece, num_items_in_batch)
            if loss is None:
                self.examples_at_once = halve(size, PASS, SMALLER_TRAINING)
            else:
                losses.append(loss)
                start += size
        loss = torch.stack(losses).sum()
        self.epoch_loss.since_log += loss
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the library's; but the mean since the last time outlives an interruption."""
        if "loss" in logs:
            logs["loss"] = self.epoch_loss.take_steps(self.state.global_step)
        super().log(logs, *args, **kwargs)

    def _try_piece(
        self, model: torch.nn.Module, piece: dict[str, torch.Tensor], num_items_in_batch: Any
    ) -> torch.Tensor | None:
        """The loss of a piece; None if the memory did not suffice: then gradients and sums are as they were."""
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = [None if weight.grad is None else weight.grad.clone() for weight in trained]
        sums = self.epoch_loss.mark()
        try:
            return super().training_step(model, piece, num_items_in_batch)
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
        for weight, gradient in zip(trained, gradients, strict=True):
            weight.grad = gradient
        self.epoch_loss.go_back(sums)
        return None

    def _step_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        total = summed_cross_entropy(outputs.logits.flatten(0, 1), self._head.weight, labels.flatten(), dtype=dtype)
        self.epoch_loss.add(total.detach(), (labels != IGNORED_LABEL).sum())
        return total / num_items_in_batch

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> dict[str, float]:
        """Evaluate on the validation set, log, tell the callbacks. ``epoch_train_loss``: mean since the last time."""
        forget_rounded(self.model)
        evaluation = evaluate_model(
            self.model,
            self.processing_class,
            self.validation,
            self.config,
            self.score,
            batch_size=self.evaluation_batch,
            final=False,
            shared=True,
        )
        self.last_evaluation = evaluation
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in evaluation.metrics.items()}
        metrics["epoch_train_loss"] = self.epoch_loss.take()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def training_arguments(
    config: ExperimentConfig,
    output_dir: Path,
    *,
    device: str,
    precision: str,
    micro_batch_size: int,
    checkpointing: bool,
    steps_per_epoch: int,
) -> Seq2SeqTrainingArguments:
    """The project's settings as the library's arguments."""
    training, metric = config.training, config.early_stopping.metric
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=training.batch_size // (micro_batch_size * processes.count()),
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
        activation_checkpointing=checkpointing,
        train_sampling_strategy="group_by_length" if training.group_by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=training.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{metric}",
        greater_is_better=metric not in LOWER_IS_BETTER,
        restore_callback_states_from_checkpoint=training.resume is not None,
        logging_steps=config.tracking.log_every_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=True,
        ddp_find_unused_parameters=False,
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


class BestBeside(TrainerCallback):
    """The best checkpoint is the one beside the others, also where their folder was moved or fetched: the library looks
    for it under the old name, and again only at the next save, which a training that had ended never makes."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)


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
