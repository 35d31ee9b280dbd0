"""The one Trainer callback that logs: step series and epoch series."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.tracking.metric_names import STEP_SERIES, epoch_series
from cartas_mlflow.tracking.run import TrackedRun


class MlflowLogging(TrainerCallback):
    """Per-step series use the global step; per-epoch series use the epoch as step, so that runs with different batch
    sizes compare on one axis.

    Args:
        run: the open run.
        on_epoch: told (epoch, its metrics by name) after each evaluation has been logged.
    """

    def __init__(self, run: TrackedRun, on_epoch: Callable[[int, Mapping[str, float]], None]) -> None:
        self.run, self.on_epoch = run, on_epoch

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if logs is not None and "loss" in logs:
            points = {series: logs[name] for name, series in STEP_SERIES.items() if name in logs}
            self.run.log_metrics(points, state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        epoch = round(state.epoch or 0)
        self.run.log_metrics({epoch_series(name): value for name, value in metrics.items()}, epoch)
        self.on_epoch(epoch, metrics)
