"""The Trainer callback that shows each epoch to the study, which may cut the trial there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from optuna import Trial


class Pruning(TrainerCallback):
    """Reports the metric per epoch; ``pruned`` tells whether the trial was cut.

    A cut trial stops as at its last epoch, so that curves and bars end in order.

    Args:
        spared: it is never cut: what is known is what the others are measured by.
    """

    def __init__(self, trial: Trial, metric: str, *, spared: bool = False) -> None:
        self.trial, self.metric, self.spared = trial, metric, spared
        self.pruned = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        epoch = round(state.epoch or 0)
        self.trial.report(metrics[f"eval_{self.metric}"], epoch)
        # The pruner is asked about a spared trial too: it takes note of a trial when it is asked.
        weak = epoch < args.num_train_epochs and self.trial.should_prune()
        if weak and not self.spared:
            self.pruned = control.should_training_stop = True
