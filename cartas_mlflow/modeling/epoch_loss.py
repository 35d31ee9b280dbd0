"""The training loss over an epoch and between two points of its curve, whatever interrupts them."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.validation import TokenMean


class EpochLoss(TokenMean, TrainerCallback, ExportableState):
    """Means that checkpoints keep, so that an epoch, or a point of the curve, that was interrupted counts whole.

    Raises:
        TrainingError: at the end of a step whose loss is no number, before the weights move.
    """

    def __init__(self) -> None:
        super().__init__()
        self.since_log: float | torch.Tensor = 0.0
        """Sum of the steps' losses since the last point of the curve, and at which step that was."""
        self.logged_at = 0

    def gather(self) -> None:
        """Put the sums of all processes into the leader's: it alone writes them down."""
        total, tokens, since = processes.summed(float(self.total), int(self.tokens), float(self.since_log))
        self.total, self.tokens, self.since_log = (total, round(tokens), since) if processes.leads() else (0.0, 0, 0.0)

    def take_steps(self, step: int) -> float:
        """Mean loss of the steps up to this one that no point has told yet, in nats per token."""
        (total,) = processes.summed(float(self.since_log))
        mean = total / processes.count() / (step - self.logged_at)
        self.since_log, self.logged_at = 0.0, step
        return mean

    def take(self) -> float:
        """The mean so far over all processes, in nats per token; starts anew."""
        self.gather()
        mean = super().take()
        return processes.told_by_leader(mean)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if not processes.leads():  # what a checkpoint gave back is the leader's
            self.total, self.tokens, self.since_log = 0.0, 0, 0.0
        self.logged_at = self.logged_at or state.global_step  # a checkpoint of an earlier version has none

    def state(self) -> dict[str, Any]:
        sums = {"total": float(self.total), "tokens": int(self.tokens), "since_log": float(self.since_log)}
        return {"args": {}, "attributes": {**sums, "logged_at": self.logged_at}}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if processes.any_of(not math.isfinite(self.total)):
            raise TrainingError(
                f"A perda deixou de ser um número no passo {state.global_step + 1}; use "
                "training.precision=float32 ou uma training.learning_rate menor."
            )
