"""What the user sees while the model trains: a bar, the guide's four lines per epoch, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.console import duration, progress_bar, say


class Progress(TrainerCallback):
    """A bar over the steps, and a summary after each epoch."""

    def __init__(self, epochs: int, *, may_stop_early: bool = False) -> None:
        self.epochs = epochs
        self.about = "no máximo" if may_stop_early else "cerca de"
        self.bar: tqdm | None = None
        self.started = time.perf_counter()
        self.first_epoch = 0.0
        self.estimate_shown = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.started, self.first_epoch = time.perf_counter(), float(state.epoch or 0)
        self.bar = progress_bar(state.max_steps, "Treino", "passo", initial=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def show_epoch(self, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:
        """The guide's summary of an epoch, with the time of one and the time left at this pace."""
        elapsed = time.perf_counter() - self.started
        per_epoch = elapsed / (epoch - self.first_epoch)
        say(
            f"Epoch {epoch}/{self.epochs}" + ("  ★ melhor até aqui" if best else "") + "\n"
            f"  Train Loss: {metrics['epoch_train_loss']:.4f}\n"
            f"  Eval Loss: {metrics['eval_loss']:.4f}\n"
            f"  Eval ROUGE-L: {metrics['eval_rougeL']:.4f}\n"
            f"  Eval BLEU: {metrics['eval_bleu']:.4f}"
            f"   (chrF: {metrics['eval_chrf']:.4f})\n"
            + (f"  Prompt fit: {metrics['eval_prompt_fit']:.4f}\n" if "eval_prompt_fit" in metrics else "")
            + f"  Tempo por época: {duration(per_epoch)}"
            + (f"; restam {self.about} {duration(per_epoch * (self.epochs - epoch))}" if epoch < self.epochs else "")
        )
        if not self.estimate_shown:
            self.estimate_shown = True
            say(f"Tempo estimado por época: {duration(per_epoch)}")
            say(f"Tempo total estimado: {self.about} {duration(per_epoch * self.epochs)}")
